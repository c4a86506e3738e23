"""Which chain of servers a client follows through the blocks of a model.

Follows Petals' ``min_latency`` routing (client/routing/sequence_manager.py): the cheapest path over
block boundaries, where a hop costs its round trip plus the time its blocks take. Rule of the file:
pure functions of what was announced and measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import Unreachable
from ..types import BlockRange, PeerId


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server that could be a hop; times in seconds. ``sliceable``: it also takes a part of its span."""

    peer: PeerId
    blocks: BlockRange
    seconds_per_block: float
    round_trip: float
    sliceable: bool = False

    def cost(self, blocks: int) -> float:
        """Seconds that one token spends on this hop."""
        return self.round_trip + blocks * self.seconds_per_block


@dataclass(frozen=True, slots=True)
class Hop:
    """One server of a chain and the blocks asked of it."""

    peer: PeerId
    blocks: BlockRange


def choose_chain(candidates: Iterable[Candidate], num_blocks: int) -> list[Hop]:
    """The cheapest chain over blocks 0 to ``num_blocks``.

    Ties go to the earlier candidate. Raises ``Unreachable`` naming the first block that no chain passes.
    """
    pool = list(candidates)
    best: list[tuple[float, list[Hop]] | None] = [None] * num_blocks + [(0.0, [])]
    for start in range(num_blocks - 1, -1, -1):
        for candidate in pool:
            for end in _ends(candidate, start, num_blocks):
                rest = best[end]
                if rest is None:
                    continue
                cost = candidate.cost(end - start) + rest[0]
                known = best[start]
                if known is None or cost < known[0]:
                    best[start] = (cost, [Hop(candidate.peer, BlockRange(start, end)), *rest[1]])
    if best[0] is None:
        raise Unreachable(_gap(pool, num_blocks))
    return best[0][1]


def _ends(candidate: Candidate, start: int, num_blocks: int) -> list[int]:
    """Where a hop over this candidate that begins at ``start`` may end."""
    span = candidate.blocks
    if candidate.sliceable and start in span:
        return list(range(start + 1, min(span.end, num_blocks) + 1))
    return [span.end] if span.start == start and span.end <= num_blocks else []


def _gap(pool: list[Candidate], num_blocks: int) -> str:
    covered = {block for candidate in pool for block in range(candidate.blocks.start, candidate.blocks.end)}
    missing = [block for block in range(num_blocks) if block not in covered]
    if missing:
        return (
            f"no server is online for block {missing[0]} of {num_blocks} "
            f"({len(missing)} missing); wait for one or serve it yourself"
        )
    spans = ", ".join(sorted({str(candidate.blocks) for candidate in pool}))
    return f"the spans online ({spans}) do not join over {num_blocks} blocks; serve one that does"

"""Which chain of servers a client follows through the blocks of a model.

Follows Petals' ``min_latency`` routing (client/routing/sequence_manager.py): the cheapest path over
block boundaries, where a hop costs its round trip plus the time its blocks take. A server may be
entered at any block of its span; it is then followed to its end. It is counted as slow as its whole
span, because ours also compute the blocks that nobody asked for. Rule of the file: pure functions of
what was announced and measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import Unreachable
from ..types import BlockRange, PeerId


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server that could be a hop; times in seconds."""

    peer: PeerId
    blocks: BlockRange
    seconds_per_block: float
    round_trip: float

    @property
    def cost(self) -> float:
        """Seconds that one token spends on this hop."""
        return self.round_trip + len(self.blocks) * self.seconds_per_block


@dataclass(frozen=True, slots=True)
class Hop:
    """One server of a chain and the blocks asked of it."""

    peer: PeerId
    blocks: BlockRange


def choose_chain(candidates: Iterable[Candidate], num_blocks: int) -> list[Hop]:
    """The cheapest chain over blocks 0 to ``num_blocks``.

    Ties go to the earlier candidate. Raises ``Unreachable`` naming the first block that nobody has.
    """
    pool = list(candidates)
    best: list[tuple[float, list[Hop]] | None] = [None] * num_blocks + [(0.0, [])]
    for start in range(num_blocks - 1, -1, -1):
        for candidate in pool:
            end = min(candidate.blocks.end, num_blocks)
            rest = best[end] if start in candidate.blocks else None
            if rest is None:
                continue
            cost = candidate.cost + rest[0]
            known = best[start]
            if known is None or cost < known[0]:
                best[start] = (cost, [Hop(candidate.peer, BlockRange(start, end)), *rest[1]])
    if best[0] is None:
        covered = {block for one in pool for block in range(one.blocks.start, one.blocks.end)}
        missing = [block for block in range(num_blocks) if block not in covered]
        raise Unreachable(
            f"no server is online for block {missing[0]} of {num_blocks} "
            f"({len(missing)} missing); wait for one or serve it yourself"
        )
    return best[0][1]

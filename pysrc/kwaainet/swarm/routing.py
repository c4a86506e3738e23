"""Which chain of servers a client follows through the blocks of a model.

Follows Petals' ``min_latency`` and ``max_throughput`` (client/routing/sequence_manager.py) with its
constants. A server may be entered at any block of its span and is followed to its end. Two things are
ours: a step goes from server to server by way of the client or directly, whichever is sooner; and a
server counts as slow as its whole span, because ours also compute the blocks that nobody asked for.
Rule of the file: pure functions of what was announced and measured; chance is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import Unreachable
from ..types import BlockRange, PeerId

OVERHEAD = 0.018  # seconds a hop costs beside its network and blocks: Petals' measurement
DEFAULT_RATE = 300.0  # steps per second through one block of a server that announces none
UNKNOWN_ROUND_TRIP = 0.3  # seconds, of a server never measured
MAX_ROUND_TRIP = 10.0  # seconds; unreachable servers are last, but not left out
ALLOCATION_PENALTY = 10.0  # seconds, where the cache announced as free does not hold the session
_SMALLEST_WEIGHT = 1e-6


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server that could be a hop. ``round_trip`` is ours to it, ``next_pings`` its own to others
    (by base58 peer id), in seconds; ``rate`` is steps per second through one block; ``cache_tokens_left``
    counts as ``ServerInfo`` does. ``None`` is unknown."""

    peer: PeerId
    blocks: BlockRange
    rate: float | None = None
    round_trip: float | None = None
    throughput: float = 1.0
    cache_tokens_left: int | None = None
    next_pings: Mapping[str, float] = field(default_factory=dict)

    @property
    def compute_seconds(self) -> float:
        """Seconds that one token spends in its blocks."""
        return len(self.blocks) / (self.rate or DEFAULT_RATE)

    @property
    def one_way(self) -> float:
        """Seconds from us to it, or back."""
        trip = UNKNOWN_ROUND_TRIP if self.round_trip is None else self.round_trip
        return min(trip, MAX_ROUND_TRIP) / 2

    def entry_seconds(self, cache_tokens: int) -> float:
        """Seconds that a step waits at its door."""
        needed = cache_tokens * 2 * len(self.blocks)
        full = self.cache_tokens_left is not None and needed > self.cache_tokens_left
        return OVERHEAD + (ALLOCATION_PENALTY if full else 0.0)


@dataclass(frozen=True, slots=True)
class Hop:
    """One server of a chain and the blocks asked of it."""

    peer: PeerId
    blocks: BlockRange


@dataclass(frozen=True, slots=True)
class _Path:
    """A way to the door of a candidate at some block; ``seconds`` so far."""

    seconds: float
    candidate: Candidate
    start: int
    before: _Path | None

    @property
    def end_seconds(self) -> float:
        return self.seconds + self.candidate.compute_seconds


class _Arrivals:
    """The paths that end at a block, ready to be asked which is soonest at a server's door.

    From a server to the next a step goes through us, or directly if it told its ping.
    """

    def __init__(self, paths: Iterable[_Path]) -> None:
        self._through_us: tuple[float, _Path | None] = (math.inf, None)
        self._direct: dict[str, tuple[float, _Path | None]] = {}
        for path in paths:
            at_us = path.end_seconds + path.candidate.one_way
            if at_us < self._through_us[0]:
                self._through_us = (at_us, path)
            for peer, ping in path.candidate.next_pings.items():
                there = path.end_seconds + ping / 2
                if there < self._direct.get(peer, (math.inf, None))[0]:
                    self._direct[peer] = (there, path)

    def first_at(self, candidate: Candidate) -> tuple[float, _Path | None]:
        """Seconds until the door of ``candidate`` is reached, and how; infinite if nothing ends here."""
        at_us, path = self._through_us
        direct = self._direct.get(str(candidate.peer), (math.inf, None))
        return direct if direct[0] < at_us + candidate.one_way else (at_us + candidate.one_way, path)


def min_latency(candidates: Iterable[Candidate], blocks: BlockRange, cache_tokens: int = 0) -> list[Hop]:
    """The chain over ``blocks`` in which one token is back soonest; ties go to the earlier candidate.

    ``cache_tokens`` are the positions x rows that the session will hold. Raises ``Unreachable``
    naming the first block that nobody has.
    """
    pool = list(candidates)
    _check_covered(pool, blocks)
    doors: dict[int, list[_Path]] = {}  # block -> the best path to each candidate that ends there
    finished: list[_Path] = []
    for block in range(blocks.start, blocks.end):
        arrivals = None if block == blocks.start else _Arrivals(doors.pop(block, []))
        for candidate in (one for one in pool if block in one.blocks):
            seconds, before = (candidate.one_way, None) if arrivals is None else arrivals.first_at(candidate)
            if seconds == math.inf:
                continue
            path = _Path(seconds + candidate.entry_seconds(cache_tokens), candidate, block, before)
            end = min(candidate.blocks.end, blocks.end)
            (finished if end == blocks.end else doors.setdefault(end, [])).append(path)
    best = min(finished, key=lambda path: path.end_seconds + path.candidate.one_way)
    return _hops(best, blocks.end)


def max_throughput(
    candidates: Iterable[Candidate], blocks: BlockRange, chance: Callable[[], float]
) -> list[Hop]:
    """A random chain that spreads the load: longer spans and faster servers are likelier.

    ``chance()`` is uniform in [0, 1). Petals weighs by length alone. Raises ``Unreachable``.
    """
    pool = list(candidates)
    _check_covered(pool, blocks)
    hops: list[Hop] = []
    block = blocks.start
    while block < blocks.end:
        chosen = _draw([one for one in pool if block in one.blocks], chance())
        end = min(chosen.blocks.end, blocks.end)
        hops.append(Hop(chosen.peer, BlockRange(block, end)))
        block = end
    return hops


def _hops(path: _Path, end: int) -> list[Hop]:
    hop = Hop(path.candidate.peer, BlockRange(path.start, end))
    return [hop] if path.before is None else [*_hops(path.before, path.start), hop]


def _draw(pool: Sequence[Candidate], chance: float) -> Candidate:
    weights = [max(len(one.blocks) * one.throughput, _SMALLEST_WEIGHT) for one in pool]
    left = chance * sum(weights)
    for candidate, weight in zip(pool, weights, strict=True):
        left -= weight
        if left < 0:
            return candidate
    return pool[-1]


def _check_covered(pool: Sequence[Candidate], blocks: BlockRange) -> None:
    missing = [
        block for block in range(blocks.start, blocks.end) if not any(block in one.blocks for one in pool)
    ]
    if missing:
        raise Unreachable(
            f"no server is online for block {missing[0]} of {blocks.end} "
            f"({len(missing)} missing); wait for one or serve it yourself"
        )

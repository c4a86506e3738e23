"""Which blocks a server takes, and when it takes others.

Follows Petals' ``server/block_selection.py``: a newcomer goes where the swarm is slowest, and a server
moves when that would make the slowest block of the swarm enough faster (``balance_quality``). Beyond
Petals: a block that nobody has is worth a move at once, a move never leaves more such blocks than
before, and a move that helps nobody until others move too is not made. Rule of the file: pure functions
of the records and of the chances passed in; speeds are the announced tokens a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..types import BlockRange, PeerId, ServerState
from .coverage import is_gateway
from .server_info import ServerInfo, Span, compute_spans

Speeds = NDArray[np.float64]  # [blocks]: of all servers of a block together

EPSILON = 1e-3  # share by which another place must be better
_NOISE = 1e-9  # share by which sums may be wrong
MAX_PASSES = 4  # over all servers when looking for what the swarm could become


@dataclass(frozen=True, slots=True)
class Move:
    """Blocks to serve instead; ``urgent`` if some of them have no server at all now."""

    blocks: BlockRange
    urgent: bool


@dataclass(frozen=True, slots=True)
class View:
    """A model's servers as one node sees them: those that serve or are about to, ordered by peer so
    that everybody computes the very same sums."""

    num_blocks: int
    spans: tuple[Span, ...]

    @classmethod
    def of(cls, records: Sequence[Mapping[PeerId, ServerInfo]]) -> View:
        """From the records of all blocks; gateways compute nothing and do not count."""
        spans = compute_spans(records, min_state=ServerState.JOINING)
        themselves = (span for span in spans if not is_gateway(span.info))
        return cls(len(records), tuple(sorted(themselves, key=lambda span: span.peer.data)))

    def speeds(self) -> Speeds:
        """Tokens a second through each block: the sum over its servers."""
        return _speeds(self.spans, self.num_blocks)


def choose_span(view: View, length: int) -> BlockRange:
    """The ``length`` consecutive blocks that need a server most; ties go to the lowest."""
    if not 0 < length <= view.num_blocks:
        raise InputError(f"{length} blocks of a model of {view.num_blocks} cannot be served")
    return _best(view.speeds(), length)


def better_span(
    peer: PeerId,
    view: View,
    *,
    balance_quality: float,
    chance: Callable[[], float],
    only_urgent: bool = False,
) -> Move | None:
    """Where the server ``peer`` should move, or ``None`` to stay.

    ``chance`` gives numbers from 0 to 1; the order in which others are thought to move is drawn by it.
    """
    own = next((span for span in view.spans if span.peer == peer), None)
    if own is None:
        return None  # our own records have not arrived, or are gone: nothing to judge by
    speeds = view.speeds()
    without = _without(speeds, own)
    target = _best_for(own, without)
    if target == own.blocks:
        return None
    moved = _with(without, replace(own, blocks=target))
    missing, still_missing = _missing(speeds), _missing(moved)
    if missing:
        return Move(target, urgent=True) if still_missing < missing else None
    if only_urgent or still_missing or not _improves(speeds, moved):
        return None
    if speeds.min() >= balance_quality * speeds.mean():
        return None  # even speed spread evenly would not make enough of a difference
    enough = float(speeds.min()) / (balance_quality - EPSILON)
    return Move(target, urgent=False) if _reaches(enough, view, chance) else None


def _speeds(spans: Sequence[Span], num_blocks: int) -> Speeds:
    speeds = np.zeros(num_blocks)
    for span in spans:
        speeds[_slice(span.blocks)] += span.info.throughput
    return speeds


def _without(speeds: Speeds, span: Span) -> Speeds:
    """What the others do; a bit less at our place, so that another must be better by that."""
    rest, own = speeds.copy(), span.info.throughput
    left = rest[_slice(span.blocks)] - own
    left[left < _NOISE * own] = 0.0
    rest[_slice(span.blocks)] = left * (1 - EPSILON)
    return rest


def _with(rest: Speeds, span: Span) -> Speeds:
    speeds = rest.copy()
    speeds[_slice(span.blocks)] += span.info.throughput
    return speeds


def _best_for(span: Span, rest: Speeds) -> BlockRange:
    """The best place for a server when ``rest`` is what the others do: its own if none is better."""
    best = _best(rest, len(span.blocks))
    same = np.array_equal(np.sort(rest[_slice(best)]), np.sort(rest[_slice(span.blocks)]))
    return span.blocks if same else best


def _best(speeds: Speeds, length: int) -> BlockRange:
    """The window whose slowest block is slowest, then whose second slowest is, and so on."""
    windows = speeds[_windows(len(speeds), length)]
    slowest = windows.min(axis=1)
    starts = np.flatnonzero(slowest == slowest.min())
    if len(starts) > 1:
        starts = starts[np.lexsort(np.sort(windows[starts], axis=1).T[::-1])]
    return BlockRange(int(starts[0]), int(starts[0]) + length)


@lru_cache(maxsize=256)
def _windows(blocks: int, length: int) -> NDArray[np.intp]:
    """[starts, length]: the blocks of every window."""
    return np.arange(blocks - length + 1)[:, None] + np.arange(length)


def _missing(speeds: Speeds) -> int:
    """Blocks that nobody serves."""
    return int((speeds <= 0).sum())


def _improves(before: Speeds, after: Speeds) -> bool:
    """Whether the slowest blocks get faster: the sorted speeds, compared from the slowest on."""
    for old, new in zip(np.sort(before), np.sort(after), strict=True):
        if abs(new - old) > EPSILON * max(old, new):
            return bool(new > old)
    return False


def _reaches(speed: float, view: View, chance: Callable[[], float]) -> bool:
    """Whether the slowest block gets faster than ``speed`` if everybody moves to a better place, one
    after the other, till there is none."""
    places, speeds = list(view.spans), view.speeds()
    for _ in range(MAX_PASSES):
        moved = False
        for index in sorted(range(len(places)), key=lambda _: chance()):
            span = places[index]
            rest = _without(speeds, span)
            target = _best_for(span, rest)
            if target != span.blocks:
                places[index] = replace(span, blocks=target)
                speeds = _speeds(places, view.num_blocks)
                moved = True
        if not moved or speeds.min() > speed:
            break
    return bool(speeds.min() > speed)


def _slice(blocks: BlockRange) -> slice:
    return slice(blocks.start, blocks.end)

"""Where caches lie: rows of slabs, so that decode steps of several sessions can be one run.

The attention takes one tensor [rows, kv_heads, capacity, head_dim] per block and a length for each
row: sessions step together only where their rows lie next to each other and are equally large. A
slab is such a tensor's memory; a cache takes adjacent rows of one whose capacity (positions) is at
least what it needs and at most twice that.

Rule of the file: no tensor is touched here. A change of memory is told as a ``Change``; its owner
makes the new memory, copies the moves, commits the change, and releases what the change replaced.

Memory follows what is held: each slab has at most ``SLACK`` positions of free rows when it grew, and
gives them back when twice that, and a quarter of what it holds, lie free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .cache import Cache

MAX_ROWS = 64  # of a slab; a cache of more rows has a slab of its own
SLACK = 1024  # positions
_SMALLEST = 64  # positions of a row

Memory = TypeVar("Memory")


@dataclass(slots=True, eq=False)
class Slab(Generic[Memory]):
    """``rows`` rows of ``capacity`` positions, and whose they are, in order."""

    capacity: int
    rows: int
    memory: Memory
    tenants: list[Cache[Slab[Memory]]] = field(default_factory=list)

    @property
    def used(self) -> int:
        """Rows that belong to somebody."""
        return sum(cache.batch for cache in self.tenants)

    def gap(self, count: int) -> int | None:
        """The first of ``count`` adjacent free rows; ``None`` if there are none."""
        start = 0
        for cache in self.tenants:
            if cache.first_row - start >= count:
                return start
            start = cache.end_row
        return start if self.rows - start >= count else None

    def enter(self, cache: Cache[Slab[Memory]]) -> None:
        """Give a cache rows of its own; there is a gap for them."""
        first = self.gap(cache.batch)
        assert first is not None, "room() tells what must happen before"
        cache.first_row = first
        self.tenants.append(cache)
        self.tenants.sort(key=lambda tenant: tenant.first_row)


@dataclass(frozen=True, slots=True)
class Move:
    """Copy ``length`` positions of ``count`` rows from row ``source`` on to row ``target`` on."""

    source: int
    target: int
    count: int
    length: int


@dataclass(frozen=True, slots=True)
class Change(Generic[Memory]):
    """New memory of ``rows`` rows that takes the place of ``slab``'s, or is a slab of its own.

    With no rows the slab is only to be released.
    """

    slab: Slab[Memory] | None
    rows: int
    capacity: int
    moves: Sequence[Move] = ()


def capacity_for(max_length: int, max_positions: int) -> int:
    """Positions of the rows of a new slab: rounded up by less than a quarter, so that others fit in too."""
    step = max(_SMALLEST, 1 << max(0, max_length.bit_length() - 3))
    return min(-(-max_length // step) * step, max_positions)


class Slabs(Generic[Memory]):
    """All slabs of one engine; no row has more than ``max_positions``."""

    def __init__(self, max_positions: int) -> None:
        self._max_positions = max_positions
        self.slabs: list[Slab[Memory]] = []

    def room(self, count: int, max_length: int) -> Change[Memory] | None:
        """What must happen before ``find`` finds a slab; ``None`` if nothing."""
        fitting = self._fitting(max_length)
        if any(slab.gap(count) is not None for slab in fitting):
            return None
        for slab in fitting:
            if slab.used + count <= MAX_ROWS:
                spare = min(slab.used // 2, SLACK // slab.capacity)
                return _rearranged(slab, min(MAX_ROWS, slab.used + count + spare))
        return Change(None, count, capacity_for(max_length, self._max_positions))

    def commit(self, change: Change[Memory], memory: Memory) -> None:
        """The change has happened, and its new rows are in ``memory``."""
        slab = change.slab
        if slab is None:
            self.slabs.append(Slab(change.capacity, change.rows, memory))
            return
        slab.memory, slab.rows = memory, change.rows
        for cache, move in zip(slab.tenants, change.moves, strict=True):
            cache.first_row = move.target

    def find(self, count: int, max_length: int) -> Slab[Memory]:
        """A slab with a gap of ``count`` rows; there is one once ``room`` asks for nothing."""
        return next(slab for slab in self._fitting(max_length) if slab.gap(count) is not None)

    def leave(self, cache: Cache[Slab[Memory]]) -> Change[Memory] | None:
        """Free a cache's rows; what should happen so that their memory comes back, if anything.

        A slab without tenants is out of the books at once, and its memory to be released.
        """
        slab = cache.storage
        slab.tenants.remove(cache)
        if not slab.tenants:
            self.slabs.remove(slab)
            return Change(slab, 0, slab.capacity)
        free = (slab.rows - slab.used) * slab.capacity
        if free > max(2 * SLACK, slab.used * slab.capacity // 4):
            return _rearranged(slab, slab.used)
        return None

    def _fitting(self, max_length: int) -> list[Slab[Memory]]:
        """The slabs whose rows are neither too short nor much too long, the shortest first."""
        most = max(_SMALLEST, 2 * max_length)
        fitting = [slab for slab in self.slabs if max_length <= slab.capacity <= most]
        return sorted(fitting, key=lambda slab: slab.capacity)


def _rearranged(slab: Slab[Memory], rows: int) -> Change[Memory]:
    """All tenants one after another from the first row on."""
    moves, target = [], 0
    for cache in slab.tenants:
        moves.append(Move(cache.first_row, target, cache.batch, cache.length))
        target += cache.batch
    return Change(slab, rows, slab.capacity, moves)

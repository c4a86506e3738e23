"""What engines that compute on rows of slabs share: whose rows are whose, and which rows one run is for.

Rule of the file: the books of ``inference.cache`` and ``inference.slabs`` are kept here, one call at a time;
memory and arithmetic are the subclass's. What a cache holds changes only after its run has succeeded.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from ..errors import CapacityError, DeviceLost, EngineError, LocalError
from ..inference.batching import check_steps, step_runs
from ..inference.cache import Cache, CacheTable
from ..inference.slabs import Change, Slab, Slabs
from ..ports import Floats, StepResult
from ..types import BlockRange, SpanShape

Memory = TypeVar("Memory")


class SlabEngine(ABC, Generic[Memory]):
    """The calls of ``ports.Engine`` that are about caches, over a subclass's slabs of ``Memory``.

    ``bridge``: rows without a step that a run of steps goes over rather than being two runs; ``None``: any.
    """

    bridge: int | None

    def __init__(self) -> None:
        self._caches: CacheTable[Slab[Memory]] | None = None
        self._slabs: Slabs[Memory] = Slabs(0)
        self._turn = asyncio.Lock()  # rows move only between runs

    # --- the subclass's ---------------------------------------------------------------------------

    @abstractmethod
    async def _allocate(self, rows: int, capacity: int) -> Memory:
        """Memory for so many rows of so many positions. Raises ``CapacityError``."""

    @abstractmethod
    async def _copy(self, change: Change[Memory], old: Memory, new: Memory) -> None:
        """Make the moves of a change."""

    @abstractmethod
    async def _free(self, memory: Memory) -> None:
        """Release it, after a run under way, whether or not anybody waits."""

    @abstractmethod
    async def _permute(self, cache: Cache[Slab[Memory]], rows: list[int]) -> None:
        """Row i of the cache becomes what its row ``rows[i]`` was, as far as it is filled."""

    @abstractmethod
    async def _compute(
        self, slab: Slab[Memory], first_row: int, lengths: Sequence[int], blocks: BlockRange, x: Floats
    ) -> Floats:
        """One run on the rows of ``slab`` from ``first_row`` on, which hold ``lengths`` positions before it;
        x [rows, n, hidden] -> the same shape. Raises ``EngineError``, ``CapacityError`` or ``DeviceLost``."""

    # --- the port's -------------------------------------------------------------------------------

    async def open_cache(self, batch: int, max_length: int, blocks: BlockRange | None = None) -> int:
        """See ``ports.Engine``; ``CapacityError`` where memory or the model's positions end."""
        caches = self._built()
        blocks = caches.check(batch, max_length, blocks)
        async with self._turn:
            change = self._slabs.room(batch, max_length)
            if change is not None:
                await self._rearrange(change)
            slab = self._slabs.find(batch, max_length)
            handle = caches.add(batch, max_length, blocks, slab)
            slab.enter(caches[handle])
        return handle

    async def run(self, cache: int, hidden: Floats) -> Floats:
        """See ``ports.Engine``; ``CapacityError`` if the cache has no room for the positions.

        Cancelling leaves the cache as it was.
        """
        caches = self._built()
        async with self._turn:
            entry = caches[cache]
            result = np.empty(hidden.shape, np.float32)
            for piece in caches.plan(entry, hidden):
                rows, positions = slice(piece.first_row, piece.end_row), slice(piece.first, piece.end)
                x = np.ascontiguousarray(hidden[rows, positions])
                lengths = [entry.length + piece.first] * len(x)
                first_row = entry.first_row + piece.first_row
                result[rows, positions] = await self._compute(
                    entry.storage, first_row, lengths, entry.blocks, x
                )
            entry.length += hidden.shape[1]
        return result

    async def run_many(self, steps: Sequence[tuple[int, Floats]]) -> list[StepResult]:
        """See ``ports.Engine``."""
        async with self._turn:
            results, sound = check_steps(self._built(), steps)
            done: list[Cache[Slab[Memory]]] = []
            for run in step_runs(sound, self.bridge):
                x = run.gather([hidden for _, hidden in steps])
                try:
                    y = await self._compute(run.slab, run.first_row, run.lengths, run.blocks, x)
                except DeviceLost:
                    raise
                except LocalError as error:
                    for index, _ in run.steps:
                        results[index] = error
                    continue
                run.scatter(y, results)
                done += [cache for _, cache in run.steps]
            for cache in done:
                cache.length += 1
        return results

    async def truncate(self, cache: int, length: int) -> None:
        """See ``ports.Engine``; ``EngineError`` if the cache is shorter."""
        async with self._turn:
            self._built()[cache].truncate(length)

    async def reorder(self, cache: int, rows: Sequence[int]) -> None:
        """See ``ports.Engine``."""
        async with self._turn:
            entry = self._built()[cache]
            entry.check_rows(rows)
            await self._permute(entry, list(rows))

    async def close_cache(self, cache: int) -> None:
        """See ``ports.Engine``; memory is released after a run under way."""
        async with self._turn:
            entry = self._caches.remove(cache) if self._caches is not None else None
            change = self._slabs.leave(entry) if entry is not None else None
            if change is not None and change.rows:
                with contextlib.suppress(CapacityError):  # then it stays where it is
                    await self._rearrange(change)
            elif change is not None and change.slab is not None:
                await self._free(change.slab.memory)

    # --- the books --------------------------------------------------------------------------------

    def _open_books(self, shape: SpanShape) -> None:
        """From now on there are caches of this span."""
        self._caches, self._slabs = CacheTable(shape), Slabs(shape.max_positions)

    def _close_books(self) -> None:
        self._caches, self._slabs = None, Slabs(0)

    def _built(self) -> CacheTable[Slab[Memory]]:
        if self._caches is None:
            raise EngineError("the engine has no graph; build() it first")
        return self._caches

    async def _rearrange(self, change: Change[Memory]) -> None:
        memory = await self._allocate(change.rows, change.capacity)
        unwanted = memory
        try:
            if change.slab is not None:
                await self._copy(change, change.slab.memory, memory)
                unwanted = change.slab.memory
            self._slabs.commit(change, memory)
        finally:
            if change.slab is not None:
                await self._free(unwanted)

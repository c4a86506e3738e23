"""Whose rows are whose, with memory that is only a name: what is allocated, moved, freed and computed on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from kwaainet.errors import CapacityError, DeviceLost, EngineError
from kwaainet.inference.cache import Cache
from kwaainet.inference.slabs import Change, Slab
from kwaainet.node.slab_engine import SlabEngine
from kwaainet.ports import Floats
from kwaainet.testing.clock import run
from kwaainet.types import BlockRange, SpanShape

SHAPE = SpanShape(blocks=2, hidden_size=4, kv_heads=1, head_dim=4, max_positions=256)
ONE = np.ones((1, 1, 4), np.float32)


class Books(SlabEngine[int]):
    """Writes down what it is told; a run adds 1. ``failing`` is raised by what comes next."""

    bridge = 1

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[object, ...]] = []
        self.failing: Exception | None = None
        self._names = 0

    def begin(self) -> Books:
        self._open_books(SHAPE)
        return self

    def _say(self, *what: object) -> None:
        self.told.append(what)
        failing, self.failing = self.failing, None
        if failing is not None:
            raise failing

    async def _allocate(self, rows: int, capacity: int) -> int:
        self._names += 1
        self._say("allocate", self._names, rows, capacity)
        return self._names

    async def _copy(self, change: Change[int], old: int, new: int) -> None:
        self._say("copy", old, new)

    async def _free(self, memory: int) -> None:
        self.told.append(("free", memory))

    async def _permute(self, cache: Cache[Slab[int]], rows: list[int]) -> None:
        self._say("permute", cache.first_row, rows)

    async def _compute(
        self, slab: Slab[int], first_row: int, lengths: Sequence[int], blocks: BlockRange, x: Floats
    ) -> Floats:
        self._say("compute", first_row, list(lengths))
        return x + np.float32(1)


def test_steps_of_neighbours_are_one_run_and_count_once_they_are_done() -> None:
    async def main() -> None:
        engine = Books().begin()
        one, two = await engine.open_cache(1, 64), await engine.open_cache(1, 64)
        await engine.run(one, np.ones((1, 3, 4), np.float32))
        results = await engine.run_many([(one, ONE), (two, ONE * 2)])
        assert [float(np.asarray(result).mean()) for result in results] == [2.0, 3.0]
        assert engine.told[-1] == ("compute", 0, [3, 0])
        await engine.run_many([(one, ONE), (two, ONE)])
        assert engine.told[-1] == ("compute", 0, [4, 1])

    run(main())


def test_a_run_that_failed_counts_for_nothing_and_a_lost_device_is_raised() -> None:
    async def main() -> None:
        engine = Books().begin()
        cache = await engine.open_cache(1, 64)
        engine.failing = EngineError("no")
        (result,) = await engine.run_many([(cache, ONE)])
        assert isinstance(result, EngineError)
        engine.failing = DeviceLost("gone")
        with pytest.raises(DeviceLost):
            await engine.run_many([(cache, ONE)])
        await engine.run(cache, ONE)
        assert engine.told[-1] == ("compute", 0, [0])

    run(main())


def test_memory_that_was_replaced_or_came_to_nothing_is_freed() -> None:
    async def main() -> None:
        engine = Books().begin()
        held = [await engine.open_cache(1, 64)]
        while len([one for one in engine.told if one[0] == "allocate"]) < 2:
            held.append(await engine.open_cache(1, 64))
        assert engine.told[-2:] == [("copy", 1, 2), ("free", 1)]
        rows = len(held)
        for cache in held:
            await engine.close_cache(cache)
        assert engine.told[-1][0] == "free", rows
        assert {one[1] for one in engine.told if one[0] == "free"} == set(range(1, engine._names + 1))

    run(main())


def test_caches_that_cannot_move_together_stay_where_they_are() -> None:
    async def main() -> None:
        engine = Books().begin()
        held = [await engine.open_cache(8, 256) for _ in range(4)]
        for cache in held[:3]:
            engine.failing = CapacityError("full")
            await engine.close_cache(cache)
        engine.failing = None
        await engine.run(held[3], np.ones((8, 1, 4), np.float32))
        assert engine.told[-1][0] == "compute"
        await engine.reorder(held[3], [7, 6, 5, 4, 3, 2, 1, 0])
        assert engine.told[-1][0] == "permute"
        with pytest.raises(EngineError):
            await engine.reorder(held[3], [8] * 8)

    run(main())


def test_without_a_graph_there_is_nothing_to_run_on() -> None:
    async def main() -> None:
        engine = Books()
        with pytest.raises(EngineError, match="build"):
            await engine.open_cache(1, 1)
        await engine.close_cache(1)

    run(main())

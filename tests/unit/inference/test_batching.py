"""Which steps become one run."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import CapacityError, EngineError
from kwaainet.inference.batching import StepRun, check_steps, step_runs
from kwaainet.inference.cache import Cache, CacheTable
from kwaainet.inference.slabs import Slab
from kwaainet.ports import Floats, StepResult
from kwaainet.types import BlockRange, SpanShape

SHAPE = SpanShape(blocks=2, hidden_size=4, kv_heads=1, head_dim=4, max_positions=64)
WHOLE, HALF = BlockRange(0, 2), BlockRange(0, 1)


def slab_of(*sizes: tuple[int, int], rows: int = 0) -> tuple[Slab[None], list[Cache[Slab[None]]]]:
    """A slab with a cache for each (batch, length), one after another."""
    slab: Slab[None] = Slab(8, max(rows, sum(batch for batch, _ in sizes)), None)
    caches = []
    for batch, length in sizes:
        cache = Cache(batch, 8, WHOLE, slab, length)
        slab.enter(cache)
        caches.append(cache)
    return slab, caches


def runs_of(caches: list[Cache[Slab[None]]], *taking: int, bridge: int | None = 2) -> list[StepRun[None]]:
    return step_runs([(index, caches[index]) for index in taking], bridge)


def test_neighbours_are_one_run_in_whatever_order_they_come() -> None:
    _, caches = slab_of((1, 3), (2, 5), (1, 0))
    (run,) = runs_of(caches, 2, 0, 1)
    assert (run.first_row, run.end_row, run.lengths) == (0, 4, [3, 5, 5, 0])


def test_a_few_rows_are_run_over_and_many_are_not() -> None:
    _, caches = slab_of(*[(1, row) for row in range(7)])
    assert [run.lengths for run in runs_of(caches, 0, 3)] == [[0, 1, 2, 3]]
    assert [run.lengths for run in runs_of(caches, 0, 4)] == [[0], [4]]


def test_a_full_row_is_never_run_over() -> None:
    _, caches = slab_of((1, 3), (1, 8), (1, 4))
    for bridge in (2, None):
        assert [run.lengths for run in runs_of(caches, 0, 2, bridge=bridge)] == [[3], [4]]


def test_a_whole_slab_is_run_where_that_is_wanted() -> None:
    _, caches = slab_of((1, 3), (1, 5), (1, 2), rows=5)
    (run,) = runs_of(caches, 1, bridge=None)
    assert (run.first_row, run.lengths) == (0, [3, 5, 2, 0, 0])


def test_rows_of_a_closed_cache_are_nobodys() -> None:
    slab, caches = slab_of((1, 3), (1, 8), (1, 4))
    slab.tenants.remove(caches[1])
    assert [run.lengths for run in runs_of(caches, 0, 2)] == [[3, 0, 4]]


def test_other_slabs_and_other_blocks_are_other_runs() -> None:
    _, caches = slab_of((1, 1), (1, 2), (1, 3))
    caches[1].blocks = HALF
    _, others = slab_of((1, 4))
    runs = runs_of([*caches, *others], 0, 1, 2, 3)
    assert [(run.blocks, run.lengths) for run in runs] == [(WHOLE, [1, 2, 3]), (HALF, [2]), (WHOLE, [4])]


@given(st.data())
def test_every_step_is_run_once_and_gets_its_own(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 8)), min_size=1, max_size=12))
    _, caches = slab_of(*sizes, rows=data.draw(st.integers(0, 40)))
    sound = [index for index, cache in enumerate(caches) if cache.length < 8]
    taking = data.draw(st.lists(st.sampled_from(sound), unique=True)) if sound else []
    hidden = [np.full((caches[index].batch, 1, 4), index + 1, np.float32) for index in taking]
    results: list[StepResult] = list(hidden)
    steps = [(at, caches[index]) for at, index in enumerate(taking)]
    for run in step_runs(steps, data.draw(st.sampled_from([0, 1, 4, None]))):
        assert len(run.lengths) == run.end_row - run.first_row
        assert all(length < 8 for length in run.lengths)
        x = run.gather(hidden)
        assert len(x) == len(run.lengths)
        run.scatter(x * 10, results)
    for index, result in zip(taking, results, strict=True):
        assert isinstance(result, np.ndarray)
        np.testing.assert_array_equal(result, np.full((caches[index].batch, 1, 4), 10 * (index + 1)))


def test_steps_are_checked_one_by_one() -> None:
    table = CacheTable[None](SHAPE)
    sound, full = table.add(1, 8, WHOLE, None), table.add(1, 1, WHOLE, None)
    table[full].length = 1
    step: Floats = np.zeros((1, 1, 4), np.float32)
    two: Floats = np.zeros((1, 2, 4), np.float32)
    given = [(sound, step), (full, step), (77, step), (sound, step), (table.add(1, 8, WHOLE, None), two)]
    results, steps = check_steps(table, given)
    assert [index for index, _ in steps] == [0]
    kinds = [CapacityError, EngineError, EngineError, EngineError]
    assert [type(result) for result in results[1:]] == kinds
    assert "two steps" in str(results[3])
    assert "one position" in str(results[4])

"""The books of KV caches: what may be opened and run, and how runs are cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import CapacityError, EngineError
from kwaainet.inference.cache import MAX_BATCH, MAX_SCORES, MAX_TOKENS, CacheTable, Piece
from kwaainet.ports import Floats
from kwaainet.types import BlockRange, SpanShape

SHAPE = SpanShape(blocks=2, hidden_size=8, kv_heads=1, head_dim=4, max_positions=1 << 20)
WHOLE = BlockRange(0, 2)


def _hidden(batch: int, tokens: int) -> Floats:
    return np.zeros((batch, tokens, SHAPE.hidden_size), np.float32)


def test_handles_are_not_used_twice() -> None:
    table = CacheTable[str](SHAPE)
    first = table.add(1, 8, WHOLE, "first")
    assert table.remove(first) is not None
    second = table.add(1, 8, WHOLE, "second")
    assert first != second
    assert table[second].storage == "second"
    assert table.remove(first) is None
    with pytest.raises(EngineError, match=f"cache {first} is not open"):
        table[first]


@pytest.mark.parametrize(
    ("batch", "length"), [(0, 1), (-1, 1), (MAX_BATCH + 1, 1), (1, 0), (1, SHAPE.max_positions + 1)]
)
def test_impossible_sizes_are_refused(batch: int, length: int) -> None:
    with pytest.raises(CapacityError):
        CacheTable[None](SHAPE).check(batch, length, None)


def test_the_largest_size_is_allowed() -> None:
    CacheTable[None](SHAPE).check(MAX_BATCH, SHAPE.max_positions, None)


def test_all_blocks_are_run_unless_only_some_are_asked_for() -> None:
    table = CacheTable[None](SHAPE)
    assert table.check(1, 1, None) == WHOLE
    assert table.check(1, 1, BlockRange(1, 2)) == BlockRange(1, 2)
    assert table[table.add(1, 1, BlockRange(1, 2), None)].blocks == BlockRange(1, 2)


@pytest.mark.parametrize("blocks", [BlockRange(0, 3), BlockRange(1, 3), BlockRange(2, 3)])
def test_blocks_outside_the_span_are_refused(blocks: BlockRange) -> None:
    with pytest.raises(EngineError, match=f"blocks {blocks} are not all in the span, which has blocks 0:2"):
        CacheTable[None](SHAPE).check(1, 1, blocks)


def test_a_step_of_several_rows_is_one_piece() -> None:
    table = CacheTable[None](SHAPE)
    cache = table[table.add(3, 8, WHOLE, None)]
    cache.length = 5
    assert table.plan(cache, _hidden(3, 1)) == [Piece(0, 3, 0, 1)]


def test_several_positions_go_together_only_onto_an_empty_cache() -> None:
    table = CacheTable[None](SHAPE)
    cache = table[table.add(2, 8, WHOLE, None)]
    assert table.plan(cache, _hidden(2, 3)) == [Piece(0, 2, 0, 3)]
    cache.length = 3
    assert table.plan(cache, _hidden(2, 3)) == [Piece(0, 1, 0, 3), Piece(1, 2, 0, 3)]


def test_no_positions_are_no_pieces() -> None:
    table = CacheTable[None](SHAPE)
    assert table.plan(table[table.add(2, 8, WHOLE, None)], _hidden(2, 0)) == []


@given(
    batch=st.integers(1, 5),
    length=st.integers(0, 700),
    tokens=st.integers(0, 700),
    room=st.integers(0, 1 << 20),
)
def test_pieces_cover_a_run_once_and_stay_small(batch: int, length: int, tokens: int, room: int) -> None:
    table = CacheTable[None](SHAPE)
    most = min(length + tokens + room + 1, SHAPE.max_positions)
    cache = table[table.add(batch, most, WHOLE, None)]
    cache.length = length
    done = np.zeros((batch, tokens), int)
    filled = [length] * batch
    for piece in table.plan(cache, _hidden(batch, tokens)):
        rows, new = piece.end_row - piece.first_row, piece.end - piece.first
        assert new * rows <= max(MAX_TOKENS, rows)
        assert new == 1 or new * rows * most * 2 <= MAX_SCORES
        assert all(filled[row] == length + piece.first for row in range(piece.first_row, piece.end_row))
        assert rows == 1 or new == 1 or filled[piece.first_row] == 0
        done[piece.first_row : piece.end_row, piece.first : piece.end] += 1
        for row in range(piece.first_row, piece.end_row):
            filled[row] += new
    assert (done == 1).all()


def test_a_full_cache_takes_no_more() -> None:
    table = CacheTable[None](SHAPE)
    cache = table[table.add(1, 8, WHOLE, None)]
    cache.length = 6
    assert table.plan(cache, _hidden(1, 2))
    with pytest.raises(CapacityError, match="holds 6 of 8 positions; 3 more do not fit"):
        table.plan(cache, _hidden(1, 3))


@pytest.mark.parametrize(
    "hidden",
    [
        np.zeros((2, 1, 8), np.float32),
        np.zeros((1, 1, 9), np.float32),
        np.zeros((1, 8), np.float32),
        np.zeros((1, 1, 8), np.float64),
    ],
)
def test_hidden_states_that_do_not_fit_are_refused(hidden: Floats) -> None:
    table = CacheTable[None](SHAPE)
    with pytest.raises(EngineError, match="float32 \\[1, n, 8\\]"):
        table.plan(table[table.add(1, 8, WHOLE, None)], hidden)


def test_rolling_back_ends_at_zero_and_never_goes_forward() -> None:
    table = CacheTable[None](SHAPE)
    cache = table[table.add(1, 8, WHOLE, None)]
    cache.length = 4
    for wrong in (5, -1):
        with pytest.raises(EngineError, match=f"4 positions back to {wrong}"):
            cache.truncate(wrong)
    cache.truncate(4)
    cache.truncate(0)
    assert cache.length == 0


@pytest.mark.parametrize("rows", [[0], [0, 1, 1], [0, 2], [-1, 0]])
def test_rows_that_do_not_exist_are_refused(rows: list[int]) -> None:
    table = CacheTable[None](SHAPE)
    cache = table[table.add(2, 8, WHOLE, None)]
    cache.check_rows([1, 1])
    with pytest.raises(EngineError, match="cache of 2 rows"):
        cache.check_rows(rows)

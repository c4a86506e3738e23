"""Where caches lie: a random life of an engine, with arrays that say whose each row is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.inference.cache import Cache
from kwaainet.inference.slabs import MAX_ROWS, SLACK, Change, Slab, Slabs, capacity_for
from kwaainet.types import BlockRange

WHOLE = BlockRange(0, 1)
MOST = 4096


class Owner:
    """Carries changes out on arrays [rows, capacity] whose entries name the cache that wrote them."""

    def __init__(self) -> None:
        self.slabs: Slabs[np.ndarray] = Slabs(MOST)
        self.caches: list[Cache[Slab[np.ndarray]]] = []
        self.names = 0

    def open(self, batch: int, max_length: int, length: int) -> Cache[Slab[np.ndarray]]:
        change = self.slabs.room(batch, max_length)
        if change is not None:
            self.carry_out(change)
        slab = self.slabs.find(batch, max_length)
        cache = Cache(batch, max_length, WHOLE, slab)
        slab.enter(cache)
        self.names += 1
        cache.length = min(length, max_length)
        slab.memory[cache.first_row : cache.end_row, : cache.length] = self.names
        self.caches.append(cache)
        return cache

    def close(self, cache: Cache[Slab[np.ndarray]]) -> None:
        self.caches.remove(cache)
        change = self.slabs.leave(cache)
        if change is not None and change.rows:
            self.carry_out(change)

    def carry_out(self, change: Change[np.ndarray]) -> None:
        memory = np.zeros((change.rows, change.capacity), int)
        if change.slab is not None:
            for move in change.moves:
                rows = change.slab.memory[move.source : move.source + move.count, : move.length]
                memory[move.target : move.target + move.count, : move.length] = rows
        self.slabs.commit(change, memory)

    def check(self) -> None:
        names = set()
        for cache in self.caches:
            assert cache in cache.storage.tenants
            assert cache.max_length <= cache.storage.capacity <= max(64, 2 * cache.max_length)
            mine = cache.storage.memory[cache.first_row : cache.end_row, : cache.length]
            assert mine.shape == (cache.batch, cache.length)
            if cache.length:
                assert mine.min() == mine.max() > 0
                assert int(mine[0, 0]) not in names
                names.add(int(mine[0, 0]))
        for slab in self.slabs.slabs:
            ends = [0, *(cache.end_row for cache in slab.tenants), slab.rows]
            starts = [cache.first_row for cache in slab.tenants]
            assert all(end <= start for end, start in zip(ends, [*starts, slab.rows], strict=False))
            assert slab.rows <= max(MAX_ROWS, slab.tenants[0].batch)
            free = (slab.rows - slab.used) * slab.capacity
            assert free <= max(2 * SLACK, slab.used * slab.capacity // 4)


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, MOST), st.integers(0, 99), st.integers(0, 99)),
        max_size=80,
    )
)
def test_caches_keep_their_rows_and_memory_follows_them(life: list[tuple[int, int, int, int]]) -> None:
    owner = Owner()
    for batch, max_length, length, choice in life:
        if choice < 55 or not owner.caches:
            owner.open(batch, max_length, length)
        else:
            owner.close(owner.caches[choice % len(owner.caches)])
        owner.check()
    while owner.caches:
        owner.close(owner.caches[-1])
    assert owner.slabs.slabs == []


def test_one_session_gets_one_row() -> None:
    owner = Owner()
    cache = owner.open(1, 2048, 5)
    assert cache.storage.memory.shape == (1, 2048)


def test_sessions_of_like_size_share_a_slab() -> None:
    owner = Owner()
    caches = [owner.open(1, length, 3) for length in (100, 128, 90, 64, 70)]
    assert len(owner.slabs.slabs) == 1
    assert [cache.first_row for cache in caches] == [0, 1, 2, 3, 4]
    assert owner.open(1, 1000, 3).storage is not caches[0].storage


def test_a_slab_grows_to_its_limit_and_then_there_is_another() -> None:
    owner = Owner()
    for _ in range(MAX_ROWS + 1):
        owner.open(1, 16, 1)
    assert sorted(slab.used for slab in owner.slabs.slabs) == [1, MAX_ROWS]


def test_more_rows_than_a_slab_has_are_a_slab_of_their_own() -> None:
    owner = Owner()
    assert owner.open(MAX_ROWS + 5, 16, 1).storage.rows == MAX_ROWS + 5


def test_scattered_gaps_are_joined_for_a_cache_that_needs_more() -> None:
    owner = Owner()
    caches = [owner.open(1, 64, 10) for _ in range(12)]
    for cache in caches[::2]:
        owner.close(cache)
    owner.open(5, 64, 10)
    owner.check()
    assert len(owner.slabs.slabs) == 1


@pytest.mark.parametrize(
    ("length", "capacity"),
    [(1, 64), (64, 64), (65, 128), (1000, 1024), (1025, 1280), (4000, 4096), (4096, 4096)],
)
def test_capacities_are_round_and_at_most_a_quarter_too_large(length: int, capacity: int) -> None:
    assert capacity_for(length, MOST) == capacity


def test_no_row_is_longer_than_the_model_knows_positions() -> None:
    assert capacity_for(300, 320) == 320
    assert capacity_for(1, 1) == 1

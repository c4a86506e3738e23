"""The storage: the later expiration wins, everything expires, everything is bounded."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaainet.dht import storage
from kwaainet.dht.key import DHTID
from kwaainet.dht.record import Dictionary, Value
from kwaainet.dht.storage import MAX_LIFETIME, MAX_SUBKEY_SIZE, MAX_VALUE_SIZE, Storage

KEY = DHTID(1)


def test_the_later_expiration_wins() -> None:
    kept = Storage()
    assert kept.store(KEY, Value(b"first", 10), 0)
    assert not kept.store(KEY, Value(b"same", 10), 0)
    assert not kept.store(KEY, Value(b"older", 9), 0)
    assert kept.store(KEY, Value(b"newer", 11), 0)
    assert kept.get(KEY, 0) == Value(b"newer", 11)


def test_subkeys_win_one_by_one() -> None:
    kept = Storage()
    assert kept.store_subkey(KEY, "a", Value(b"1", 10), 0)
    assert kept.store_subkey(KEY, "b", Value(b"2", 5), 0)
    assert not kept.store_subkey(KEY, "a", Value(b"3", 10), 0)
    assert kept.store_subkey(KEY, "a", Value(b"4", 12), 0)
    assert kept.get(KEY, 0) == Dictionary({"a": Value(b"4", 12), "b": Value(b"2", 5)})
    assert kept.get(KEY, 6) == Dictionary({"a": Value(b"4", 12)})
    assert kept.get(KEY, 13) is None


def test_a_subkey_is_found_wherever_it_stands() -> None:
    kept = Storage()
    assert kept.store_subkey(KEY, "a", Value(b"1", 10), 0)
    assert kept.store_subkey(DHTID(2), "a", Value(b"2", 5), 0)
    assert kept.store_subkey(DHTID(2), "b", Value(b"3", 10), 0)
    assert kept.store(DHTID(3), Value(b"plain", 10), 0)
    assert list(kept.values_of("a", 0)) == [Value(b"1", 10), Value(b"2", 5)]
    assert list(kept.values_of("a", 6)) == [Value(b"1", 10)]
    assert list(kept.values_of("c", 0)) == []


def test_value_and_dictionary_replace_each_other_by_expiration() -> None:
    kept = Storage()
    assert kept.store(KEY, Value(b"plain", 10), 0)
    assert not kept.store_subkey(KEY, "a", Value(b"early", 10), 0)
    assert kept.store_subkey(KEY, "a", Value(b"late", 11), 0)
    assert kept.get(KEY, 0) == Dictionary({"a": Value(b"late", 11)})
    assert not kept.store(KEY, Value(b"plain", 11), 0)
    assert kept.store(KEY, Value(b"plain", 12), 0)
    assert kept.get(KEY, 0) == Value(b"plain", 12)


def test_an_expired_record_stands_in_nobodys_way() -> None:
    kept = Storage()
    assert kept.store(KEY, Value(b"old", 10), 0)
    assert kept.store_subkey(KEY, "a", Value(b"entry", 15), 11)
    assert kept.store(KEY, Value(b"new", 20), 16)
    assert kept.get(KEY, 16) == Value(b"new", 20)


@pytest.mark.parametrize("expiration", [-1.0, 99.0, 100.1 + MAX_LIFETIME, math.inf, -math.inf, math.nan])
def test_expirations_that_make_no_sense_are_refused(expiration: float) -> None:
    kept = Storage()
    assert not kept.store(KEY, Value(b"x", expiration), 100)
    assert not kept.store_subkey(KEY, "a", Value(b"x", expiration), 100)
    assert len(kept) == 0
    assert kept.size == 0


def test_oversize_values_and_strange_subkeys_are_refused() -> None:
    kept = Storage()
    assert kept.store(KEY, Value(bytes(MAX_VALUE_SIZE), 1), 0)
    assert not kept.store(DHTID(2), Value(bytes(MAX_VALUE_SIZE + 1), 1), 0)
    assert not kept.store_subkey(DHTID(2), "a", Value(bytes(MAX_VALUE_SIZE + 1), 1), 0)
    assert not kept.store_subkey(DHTID(2), "a" * (MAX_SUBKEY_SIZE + 1), Value(b"", 1), 0)
    for subkey in (None, (), ("a",), frozenset()):
        assert not kept.store_subkey(DHTID(2), subkey, Value(b"", 1), 0)
    for subkey in ("a", b"a", 1, 1.5):
        assert kept.store_subkey(DHTID(2), subkey, Value(b"", 1), 0)


def test_a_full_storage_refuses_until_something_expires() -> None:
    kept = Storage(max_keys=3)
    assert all(kept.store(DHTID(n), Value(b"x", 10 + n), 0) for n in range(3))
    assert not kept.store(DHTID(9), Value(b"x", 100), 0)
    assert not kept.store_subkey(DHTID(9), "a", Value(b"x", 100), 0)
    assert kept.store(DHTID(1), Value(b"y", 50), 0)  # known keys are renewed
    assert kept.store(DHTID(9), Value(b"x", 100), 10.5)
    assert len(kept) == 3


def test_the_total_size_is_bounded() -> None:
    kept = Storage(max_total_size=10_000)
    stored = [kept.store_subkey(DHTID(n % 5), n, Value(bytes(500), 10), 0) for n in range(100)]
    assert 10 < sum(stored) < 20
    assert kept.size <= 10_000
    kept.expire(11)
    assert kept.size == 0


def test_one_dictionary_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Storage()
    monkeypatch.setattr(storage, "MAX_SUBKEYS", 4)
    stored = [kept.store_subkey(KEY, n, Value(b"", 10), 0) for n in range(6)]
    assert stored == [True] * 4 + [False] * 2
    assert kept.store_subkey(KEY, 0, Value(b"", 20), 0)
    assert kept.store_subkey(KEY, 9, Value(b"", 30), 15)  # the others have expired
    big = [kept.store_subkey(DHTID(2), n, Value(bytes(60_000), 10), 0) for n in range(3)]
    monkeypatch.setattr(storage, "MAX_DICTIONARY_SIZE", 200_000)
    assert big == [True] * 3
    assert not kept.store_subkey(DHTID(2), 4, Value(bytes(60_000), 10), 0)
    assert kept.store_subkey(DHTID(2), 2, Value(bytes(60_001), 11), 0)


def test_what_is_read_does_not_change_afterwards() -> None:
    kept = Storage()
    kept.store_subkey(KEY, "a", Value(b"1", 10), 0)
    record = kept.get(KEY, 0)
    kept.store_subkey(KEY, "b", Value(b"2", 10), 0)
    assert record == Dictionary({"a": Value(b"1", 10)})


operations = st.tuples(
    st.sampled_from(["store", "subkey", "expire"]),
    st.integers(0, 3),
    st.sampled_from("ab"),
    st.binary(max_size=6),
    st.integers(0, 30),
)


@given(st.lists(operations, max_size=60))
@settings(max_examples=100)
def test_the_books_always_agree(steps: list[tuple[str, int, str, bytes, int]]) -> None:
    kept = Storage(max_keys=3, max_total_size=600)
    for now, (what, key, subkey, data, expiration) in enumerate(steps):
        if what == "store":
            kept.store(DHTID(key), Value(data, expiration), now)
        elif what == "subkey":
            kept.store_subkey(DHTID(key), subkey, Value(data, expiration), now)
        else:
            kept.expire(now)
        assert kept.size == sum(kept._size_of(DHTID(n)) for n in range(4))
        assert kept.size <= 600
        assert len(kept) <= 3
        assert not set(kept._values) & set(kept._dictionaries)
        assert all(record.expiration >= now for _, record in kept.items(now))
    kept.expire(1000)
    assert (kept.size, len(kept)) == (0, 0)


def test_what_a_store_costs_does_not_grow_with_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request may hold 4,096 stores: each may not look at everything there is."""
    kept = Storage(max_keys=100)
    for n in range(99):
        kept.store(DHTID(n), Value(b"x", 50 + n), 0)
    for n in range(1000):
        kept.store_subkey(DHTID(100), n, Value(b"x", 50 + n), 0)
    looked_at: list[object] = []
    monkeypatch.setattr(storage, "_cost", lambda *args: looked_at.append(args) or 1)
    monkeypatch.setattr(Storage, "_expire_key", lambda self, key, now: looked_at.append(key))
    assert not kept.store(DHTID(101), Value(b"x", 100), 10)
    assert kept.store_subkey(DHTID(100), 5, Value(b"x", 2000), 10)
    assert len(looked_at) < 20

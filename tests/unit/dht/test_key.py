"""Ids: Hivemind's hashes of keys, and their bytes."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.dht.key import DHTID
from kwaainet.errors import ProtocolError, UsageError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "hivemind.json").read_text())
ids = st.integers(0, 2**160 - 1).map(DHTID)


@pytest.mark.parametrize(("key", "digest"), VECTORS["dhtid"].items())
def test_keys_hash_as_in_hivemind(key: str, digest: str) -> None:
    assert DHTID.of(key).encode().hex() == digest


def test_bytes_are_hashed_as_they_are() -> None:
    assert DHTID.of(b"abc").encode().hex() == "a9993e364706816aba3e25717850c26c9cd0d89d"


@given(ids)
def test_bytes_round_trip(value: DHTID) -> None:
    assert DHTID.decode(value.encode()) == value
    assert len(value.encode()) == 20


@given(ids, ids, ids)
def test_distance_is_a_metric(a: DHTID, b: DHTID, c: DHTID) -> None:
    assert a.distance(a) == 0
    assert a.distance(b) == b.distance(a)
    assert a.distance(c) <= a.distance(b) + b.distance(c)


@pytest.mark.parametrize("size", [0, 1, 19, 21, 1000])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"{size} bytes"):
        DHTID.decode(bytes(size))


@pytest.mark.parametrize("value", [-1, 2**160])
def test_other_numbers_are_refused(value: int) -> None:
    with pytest.raises(UsageError):
        DHTID(value)


def test_it_prints_its_bytes() -> None:
    assert repr(DHTID(255)) == f"DHTID({'00' * 19}ff)"

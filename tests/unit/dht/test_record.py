"""Records: Hivemind's bytes of a dictionary, merging, expiry."""

import contextlib
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.dht.record import Dictionary, Record, Value, alive, merge
from kwaainet.errors import KwaaiNetError, ProtocolError
from kwaainet.wire import msgpack

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "hivemind.json").read_text())
values = st.builds(Value, st.binary(max_size=4), st.floats(0, 100))
dictionaries = st.builds(Dictionary, st.dictionaries(st.sampled_from("abcd"), values, min_size=1))
records = st.one_of(values, dictionaries)


def test_a_dictionary_has_hivemind_bytes() -> None:
    golden = bytes.fromhex(VECTORS["dictionary_value"])
    record = Dictionary.decode(golden)
    assert record is not None
    assert list(record.entries) == ["12D3KooWx"]
    assert record.expiration == 4e9
    assert record.entries["12D3KooWx"].data.hex() == VECTORS["server_info_value"]
    assert record.encode() == golden


@given(dictionaries)
def test_dictionaries_round_trip(record: Dictionary) -> None:
    assert Dictionary.decode(record.encode()) == record


def test_an_empty_dictionary_is_nothing() -> None:
    assert Dictionary.decode(msgpack.dumps(msgpack.DictionaryValue({}))) is None


@pytest.mark.parametrize("expiration", [math.inf, -math.inf, 1e300])
def test_entries_that_never_expire_are_left_out(expiration: float) -> None:
    packed = msgpack.dumps(msgpack.DictionaryValue({"x": (b"1", expiration), "y": (b"2", 5.0)}))
    assert Dictionary.decode(packed) == Dictionary({"y": Value(b"2", 5.0)})


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\xc1", msgpack.dumps({"a": 1})])
def test_other_values_are_no_dictionaries(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Dictionary.decode(data)


@given(st.binary(max_size=64))
def test_rubbish_raises_only_our_errors(data: bytes) -> None:
    with contextlib.suppress(KwaaiNetError):
        Dictionary.decode(data)


def test_truncation_is_an_error() -> None:
    golden = bytes.fromhex(VECTORS["dictionary_value"])
    for length in range(len(golden)):
        with pytest.raises(ProtocolError):
            Dictionary.decode(golden[:length])


def test_dictionaries_are_united() -> None:
    one = Dictionary({"a": Value(b"old", 1), "b": Value(b"b", 9)})
    other = Dictionary({"a": Value(b"new", 2), "c": Value(b"c", 1)})
    united = {"a": Value(b"new", 2), "b": Value(b"b", 9), "c": Value(b"c", 1)}
    assert merge(one, other) == merge(other, one) == Dictionary(united)


def test_of_values_the_newer_wins() -> None:
    old, new, entries = Value(b"o", 1), Value(b"n", 2), Dictionary({"x": Value(b"x", 3)})
    assert merge(old, new) == merge(new, old) == new
    assert merge(new, entries) == merge(entries, new) == entries


@given(records, records)
def test_merging_never_loses_the_latest(one: Record, other: Record) -> None:
    merged = merge(one, other)
    assert merged is not None
    assert merged.expiration == max(one.expiration, other.expiration)
    assert merge(merged, one) == merge(merged, other) == merged
    assert merge(one, None) == merge(None, one) == one
    assert merge(None, None) is None


@given(records, st.floats(0, 100))
def test_alive_keeps_what_has_not_expired(record: Record, now: float) -> None:
    living = alive(record, now)
    assert (living is not None) == (record.expiration >= now)
    if isinstance(record, Dictionary) and isinstance(living, Dictionary):
        assert living.entries == {k: v for k, v in record.entries.items() if v.expiration >= now}
    elif living is not None:
        assert living == record
    assert alive(None, now) is None

"""Hivemind's msgpack dialect: golden bytes both ways, strictness, and what strangers may not do."""

from __future__ import annotations

import ast
import json
import math
from enum import IntEnum
from pathlib import Path
from typing import Any

import msgpack as library
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import KwaaiNetError, LimitExceeded, ProtocolError, UsageError
from kwaainet.wire.msgpack import (
    MAX_DEPTH,
    MAX_ELEMENTS,
    MAX_LENGTH,
    MAX_SIZE,
    BatchTensorDescriptor,
    DictionaryValue,
    dumps,
    loads,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "hivemind.json").read_text())
DESCRIPTOR = BatchTensorDescriptor((None, 1, 2048, 128))


def golden(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name])


def tuple_extension(payload: bytes) -> bytes:
    return library.packb(library.ExtType(0x40, payload))


def dictionary_extension(value: object) -> bytes:
    return library.packb(library.ExtType(0x50, library.packb(value)))


def descriptor_extension(value: object) -> bytes:
    return library.packb(library.ExtType(0x51, dumps(value)))


# --- golden -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("msgpack_str", "tiny-llama-hf.0"),
        ("server_info_value", ast.literal_eval(VECTORS["server_info_py"])),
        ("model_info_value", {"num_blocks": 6, "repository": "https://huggingface.co/x/y"}),
        ("subkey_regular", None),
        ("subkey_peer", "12D3KooWx"),
        ("args_structure_hex", ((b"__T0", b"__T1", b"__T2"), {})),
        ("batch_descr", DESCRIPTOR),
        (
            "dictionary_value",
            DictionaryValue({"12D3KooWx": (golden("server_info_value"), 4e9)}, latest_expiration=4e9),
        ),
        (
            "rpc_info",
            {
                "version": "2.2.0.post1",
                "dht_client_mode": True,
                "cache_tokens_available": 4096,
                "forward_schema": ((DESCRIPTOR,), {}),
                "outputs_schema": (DESCRIPTOR,),
                "keyword_names": (),
                "inference_schema": (
                    (
                        DESCRIPTOR,
                        BatchTensorDescriptor((None,)),
                        BatchTensorDescriptor((None,), dtype="torch.int64"),
                    ),
                    {},
                ),
            },
        ),
    ],
)
def test_values_are_hiveminds_bytes_both_ways(name: str, value: object) -> None:
    assert dumps(value) == golden(name)
    assert loads(golden(name)) == value


def test_metadata_of_an_inference_request() -> None:
    metadata = ast.literal_eval(VECTORS["inference_metadata"])
    assert dumps(metadata) in golden("inference_request_first")
    assert loads(dumps(metadata)) == metadata


# --- round trips ------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.binary(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
dictionaries = st.builds(
    DictionaryValue,
    st.dictionaries(scalars, st.tuples(st.binary(max_size=9), st.floats(allow_nan=False)), max_size=4),
    st.floats(allow_nan=False),
)


def same(left: Any, right: Any) -> bool:
    """Equal, and of equal types all the way down."""
    if type(left) is not type(right) or left != right:
        return False
    if isinstance(left, dict):
        return all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return all(map(same, left, right))
    return True


@given(values)
def test_round_trip_keeps_types(value: object) -> None:
    assert same(loads(dumps(value)), value)


@given(dictionaries)
def test_dictionaries_round_trip_in_order(value: DictionaryValue) -> None:
    again = loads(dumps(value))
    assert again == value
    assert list(again.items) == list(value.items)


def test_floats_are_doubles_and_ints_are_no_floats() -> None:
    assert dumps(12.0) == b"\xcb" + bytes.fromhex("4028000000000000")
    assert dumps(12) == b"\x0c"


def test_unknown_extensions_become_their_bytes() -> None:
    assert loads(library.packb(library.ExtType(0x33, b"abc"))) == b"abc"


# --- what cannot be written -------------------------------------------------------------------


class Level(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.float32(1), "numpy.float32"),
        (np.float64(1), "numpy.float64"),
        ((1, [np.int64(1)]), "numpy.int64"),
        (Level.ONE, "Level"),
        ({1, 2}, "set"),
        (2**64, "18446744073709551616"),
        ("\ud800", "surrogates"),
    ],
)
def test_foreign_types_are_named(value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dumps(value)


def test_endless_values_are_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(UsageError, match="recursion"):
        dumps(endless)


# --- what strangers may send ------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x92\x01",
        b"\x01\x01",
        b"\xa2\xff\xff",
        b"\x81\x01\x02",  # an int as a map's key
        b"\x81\x90\x02",  # a list as a map's key
        b"\xc7\x05\x40\x01",
        tuple_extension(b""),
        tuple_extension(b"\x80"),
        tuple_extension(b"\x90\x90"),
    ],
)
def test_malformed_values_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"msgpack|tuple"):
        loads(data)


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        [math.inf, 1.0],
        [math.inf, 1.0, {}],
        [math.inf, "soon", []],
        [None, 1.0, []],
        [math.inf, math.nan, []],
        [math.inf, 1.0, [1]],
        [math.inf, 1.0, [["key", b"value"]]],
        [math.inf, 1.0, [["key", "text", 1.0]]],
        [math.inf, 1.0, [["key", b"value", None]]],
        [math.inf, 1.0, [[["list"], b"value", 1.0]]],
        [math.inf, 1.0, [[{}, b"value", 1.0]]],
    ],
)
def test_malformed_dictionaries_are_refused(value: object) -> None:
    with pytest.raises(ProtocolError, match="dictionary"):
        loads(dictionary_extension(value))


def test_of_a_subkey_sent_twice_the_later_expiration_counts() -> None:
    entries = [["a", b"1", 1.0], ["a", b"3", 3.0], ["a", b"2", 2.0]]
    assert loads(dictionary_extension([math.inf, 3.0, entries])).items == {"a": (b"3", 3.0)}


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"size": [None, 1]},
        {"size": (None, "1")},
        {"size": (None, True)},
        {"size": (), "dtype": 1},
        {"size": (), "compression": "NONE"},
        {"size": (), "requires_grad": 1},
    ],
)
def test_malformed_descriptors_are_refused(value: object) -> None:
    with pytest.raises(ProtocolError, match="descriptor"):
        loads(descriptor_extension(value))


def test_descriptors_may_lack_and_add_fields() -> None:
    data = descriptor_extension({"size": (None, 2), "compression": 3, "later": 1})
    assert loads(data) == BatchTensorDescriptor((None, 2), compression=3)


@given(st.binary(max_size=80))
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    try:
        value = loads(data)
    except KwaaiNetError:
        return
    del value


@given(st.data(), st.sampled_from(["dictionary_value", "rpc_info", "args_structure_hex", "batch_descr"]))
def test_damaged_values_raise_only_our_errors(data: st.DataObject, name: str) -> None:
    damaged = bytearray(golden(name))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= data.draw(st.integers(1, 255))
    try:
        loads(damaged)
    except KwaaiNetError:
        return


@given(st.sampled_from(["dictionary_value", "rpc_info", "server_info_value"]), st.integers(0, 10_000))
def test_truncated_values_are_refused(name: str, cut: int) -> None:
    data = golden(name)
    with pytest.raises(ProtocolError):
        loads(data[: cut % len(data)])


def test_size_cap() -> None:
    fits = library.packb(bytes(MAX_SIZE - 5))
    assert len(fits) == MAX_SIZE
    assert len(loads(fits)) == MAX_SIZE - 5
    with pytest.raises(LimitExceeded, match=str(MAX_SIZE)):
        loads(library.packb(bytes(MAX_SIZE - 4)))


def test_length_caps() -> None:
    assert len(loads(dumps([0] * MAX_LENGTH))) == MAX_LENGTH
    with pytest.raises(ProtocolError, match=str(MAX_LENGTH)):
        loads(dumps([0] * (MAX_LENGTH + 1)))
    with pytest.raises(ProtocolError, match=str(MAX_LENGTH)):
        loads(dumps({str(key): 0 for key in range(MAX_LENGTH + 1)}))
    with pytest.raises(ProtocolError):
        loads(b"\xdd\xff\xff\xff\xff")


def test_element_cap_spans_extensions() -> None:
    row = [0] * (MAX_LENGTH - 2)  # a container costs one, and one more where it is an element
    rows = MAX_ELEMENTS // MAX_LENGTH
    loads(dumps([row] * (rows - 1)))
    for bomb in ([row] * (rows + 1), [tuple(row)] * (rows + 1), [[[]] * 2000] * 30):
        with pytest.raises(LimitExceeded, match=str(MAX_ELEMENTS)):
            loads(dumps(bomb))


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"k": value}, lambda value: (value,)])
def test_depth_cap(wrap: Any) -> None:
    value: object = 0
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    assert loads(dumps(value)) == value
    with pytest.raises(LimitExceeded, match="deep"):
        loads(dumps(wrap(value)))


def test_depth_bombs_raise_only_our_errors() -> None:
    for depth in (500, 2000, 100_000):
        with pytest.raises(ProtocolError):
            loads(b"\x91" * depth + b"\x00")
    extension = b"\x00"
    for _ in range(2000):
        extension = tuple_extension(b"\x91" + extension)
    with pytest.raises(LimitExceeded, match="deep"):
        loads(extension)


def test_nesting_is_named() -> None:
    with pytest.raises(ProtocolError, match="nested too deep"):
        loads(b"\x91" * 5000 + b"\x90")

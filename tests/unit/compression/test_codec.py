"""Serialized tensors: Hivemind's bytes both ways, every type, caps before numpy, and parts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kwaainet.compression import floating
from kwaainet.compression.codec import (
    MAX_DIMENSIONS,
    MAX_ELEMENTS,
    MAX_PARTS,
    CompressionType,
    TensorJoiner,
    combine_from_streaming,
    deserialize,
    serialize,
    split_for_streaming,
)
from kwaainet.errors import KwaaiNetError, LimitExceeded, ProtocolError, RequestError, UsageError
from kwaainet.wire.messages import Tensor

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "hivemind.json").read_text())
NAMES = [name for name, value in VECTORS.items() if name.startswith("tensor_") and "pb" in value]
X = np.array(VECTORS["x"], np.float32).reshape(1, 2, 8)
FLOAT_TYPES = ["float16", "float32", "float64"]


def golden(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name]["pb"])


# --- Hivemind's bytes -------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_hiveminds_tensors_are_read(name: str) -> None:
    tensor = Tensor.decode(golden(name))
    expected = floating.round_bfloat16(X) if tensor.dtype == "bfloat16" else X
    array = deserialize(tensor)
    assert (array.dtype, array.shape) == (np.float32, X.shape)
    # The vectors' error was taken in bfloat16, which can hide one unit in its last place.
    slack = 2**-9 if tensor.dtype == "bfloat16" else 1e-8
    assert np.abs(array - expected).max() == pytest.approx(VECTORS[name]["max_err"], abs=slack)


@pytest.mark.parametrize("name", [name for name in NAMES if "MEANSTD" not in name])
def test_hiveminds_bytes_are_written(name: str) -> None:
    tensor = Tensor.decode(golden(name))
    ours = serialize(X, CompressionType(tensor.compression), tensor.dtype)
    assert ours.encode() == golden(name)


def test_meanstd_differs_from_hivemind_in_the_last_bit_of_a_mean_only() -> None:
    """torch adds rows in an order of its machine's choosing, so the mean's last bits are its own."""
    theirs = Tensor.decode(golden("tensor_MEANSTD_16BIT_float32"))
    ours = serialize(X, CompressionType.MEANSTD_16BIT)
    assert replace(ours, buffer=b"") == replace(theirs, buffer=b"")
    assert ours.buffer[:32] == theirs.buffer[:32]
    np.testing.assert_array_max_ulp(
        np.frombuffer(ours.buffer, "<f4", offset=32), np.frombuffer(theirs.buffer, "<f4", offset=32), 2
    )


@pytest.mark.parametrize("name", [name for name, value in VECTORS.items() if str(value).startswith("ERR")])
def test_what_hivemind_refuses_is_refused(name: str) -> None:
    _, compression, dtype = name.replace("_16BIT", "-16BIT").split("_")
    with pytest.raises(UsageError, match="does not support bfloat16"):
        serialize(X, CompressionType[compression.replace("-", "_")], dtype)


def test_int64_tensor_of_hivemind() -> None:
    data = bytes.fromhex(VECTORS["tensor_int64"])
    np.testing.assert_array_equal(deserialize(Tensor.decode(data)), np.array([3, 1]))
    assert serialize(np.array([3, 1], np.int64)).encode() == data


# --- round trips ------------------------------------------------------------------------------


@given(
    arrays.arrays(
        st.sampled_from([*FLOAT_TYPES, "int64", "int32", "int16", "int8", "uint8", "bool"]),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
def test_uncompressed_round_trip_is_exact(array: np.ndarray) -> None:
    again = deserialize(Tensor.decode(serialize(array).encode()))
    assert again.dtype == array.dtype
    assert again.flags.aligned
    np.testing.assert_array_equal(again, array)


@pytest.mark.parametrize("compression", [*CompressionType][1:])
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_compressed_round_trip_keeps_dtype_and_shape(compression: CompressionType, dtype: str) -> None:
    array = np.random.default_rng(1).standard_normal((2, 3, 64)).astype(dtype)
    tensor = serialize(array, compression)
    assert (tensor.dtype, tensor.compression, tensor.size) == (dtype, compression, array.shape)
    again = deserialize(Tensor.decode(tensor.encode()))
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert np.abs(again - array).mean() < 0.03


@pytest.mark.parametrize("compression", CompressionType)
def test_empty_tensors_pass(compression: CompressionType) -> None:
    assert deserialize(serialize(np.zeros((0,), np.float32), compression)).shape == (0,)
    assert deserialize(serialize(np.zeros((1, 0, 8), np.float32), compression)).shape == (1, 0, 8)


def test_views_that_are_not_contiguous_are_written_in_c_order() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    for compression in (CompressionType.NONE, CompressionType.FLOAT16):
        np.testing.assert_array_equal(deserialize(serialize(array.T, compression)), array.T)


def test_uncompressed_tensors_are_views_of_their_message() -> None:
    tensor = serialize(np.arange(8, dtype=np.float32))
    assert np.shares_memory(deserialize(tensor), np.frombuffer(tensor.buffer, np.float32))


@pytest.mark.filterwarnings("error")
def test_extreme_values_overflow_quietly() -> None:
    codebook = np.full(256, 1e30, "<f4").tobytes()
    payload = (256).to_bytes(8, "little") + codebook + bytes(2)
    tensor = Tensor(payload, (2,), dtype="float16", compression=CompressionType.UNIFORM_8BIT)
    np.testing.assert_array_equal(deserialize(tensor), [np.inf, np.inf])
    extremes = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38], np.float32)
    for compression in CompressionType:
        assert deserialize(serialize(extremes, compression)).shape == (5,)


@pytest.mark.parametrize(
    ("array", "compression"),
    [
        (np.zeros(2, np.complex64), CompressionType.NONE),
        (np.zeros(2, np.int64), CompressionType.FLOAT16),
        (np.zeros(2, bool), CompressionType.BLOCKWISE_8BIT),
        (np.zeros((), np.float32), CompressionType.MEANSTD_16BIT),
    ],
)
def test_arrays_that_cannot_be_written_are_ours_to_avoid(
    array: np.ndarray, compression: CompressionType
) -> None:
    with pytest.raises(UsageError, match=compression.name):
        serialize(array, compression)


# --- strangers' tensors -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "error", "message"),
    [
        (Tensor(bytes(4), (2,), dtype="float32"), ProtocolError, "4 bytes .* asks for 8"),
        (Tensor(bytes(9), (2,), dtype="float32"), ProtocolError, "9 bytes"),
        (Tensor(b"", (), dtype="float32"), ProtocolError, "asks for 4"),
        (Tensor(bytes(3), (2,), dtype="bfloat16"), ProtocolError, "asks for 4"),
        (Tensor(bytes(8), (2,), dtype="complex64"), RequestError, "complex64"),
        (Tensor(bytes(8), (2,), dtype="O"), RequestError, "'O'"),
        (Tensor(bytes(8), (2,)), RequestError, "dtype ''"),
        (Tensor(bytes(8), (2,), dtype="float32", compression=6), RequestError, "compression 6"),
        (Tensor(bytes(8), (2,), dtype="int64", compression=2), RequestError, "int64"),
        (Tensor(bytes(8), (), dtype="float32", compression=1), ProtocolError, "axis"),
        (Tensor(b"", (0,) * (MAX_DIMENSIONS + 1), dtype="float32"), LimitExceeded, "9 dimensions"),
        (Tensor(b"", (MAX_ELEMENTS + 1,), dtype="uint8"), LimitExceeded, str(MAX_ELEMENTS)),
        (Tensor(b"", (2**63, 2**63), dtype="float32"), LimitExceeded, "exceeds"),
        (Tensor(b"", (0, 2**40), dtype="float32"), LimitExceeded, "exceeds"),
        (Tensor(b"", (MAX_ELEMENTS,), dtype="float64"), ProtocolError, "0 bytes"),
        (Tensor(b"", (MAX_ELEMENTS,), dtype="float32", compression=5), ProtocolError, "0 bytes"),
    ],
)
def test_tensors_are_checked_before_they_cost(
    tensor: Tensor, error: type[KwaaiNetError], message: str
) -> None:
    with pytest.raises(error, match=message):
        deserialize(tensor)


@given(
    st.builds(
        Tensor,
        buffer=st.binary(max_size=64) | st.sampled_from([bytes(8 + 1024 + 4), bytes(16 + 4 + 1024 + 4)]),
        size=st.lists(st.integers(0, 5) | st.integers(0, 2**64 - 1), max_size=10).map(tuple),
        dtype=st.sampled_from([*FLOAT_TYPES, "bfloat16", "int64", "bool", "object", ""]),
        compression=st.integers(0, 7),
    )
)
def test_arbitrary_tensors_raise_only_our_errors(tensor: Tensor) -> None:
    try:
        array = deserialize(tensor)
    except KwaaiNetError:
        return
    assert array.shape == tensor.size


# --- parts ------------------------------------------------------------------------------------


@given(st.binary(max_size=60), st.integers(1, 20))
def test_parts_join_to_what_was_split(payload: bytes, size: int) -> None:
    tensor = Tensor(payload, (len(payload),), dtype="uint8")
    parts = list(split_for_streaming(tensor, size))
    assert parts[0].chunks == -(-len(payload) // size)
    assert all(part == Tensor(part.buffer) for part in parts[1:])
    assert all(len(part.buffer) <= size for part in parts)
    assert combine_from_streaming(Tensor.decode(part.encode()) for part in parts) == tensor


def test_joiner_takes_several_tensors_of_one_stream() -> None:
    first, second = serialize(X), serialize(np.arange(9))
    joiner = TensorJoiner()
    parts = [*split_for_streaming(first, 10), *split_for_streaming(second, 100)]
    whole = [tensor for part in parts if (tensor := joiner.add(part)) is not None]
    joiner.finish()
    assert whole == [first, second]


def test_parts_out_of_order_are_refused() -> None:
    first, *rest = split_for_streaming(serialize(X), 30)
    with pytest.raises(ProtocolError, match="first part"):
        TensorJoiner().add(rest[0])
    with pytest.raises(ProtocolError, match="1 of 3 parts"):
        combine_from_streaming([first, first])
    with pytest.raises(ProtocolError, match="2 of a tensor's 3 parts"):
        combine_from_streaming([first, rest[0]])
    with pytest.raises(ProtocolError, match="more parts"):
        combine_from_streaming([first, *rest, rest[0]])
    with pytest.raises(ProtocolError, match="no parts"):
        combine_from_streaming([])


def test_part_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LimitExceeded, match=str(MAX_PARTS)):
        TensorJoiner().add(Tensor(b"", (1,), dtype="float32", chunks=MAX_PARTS + 1))
    monkeypatch.setattr("kwaainet.compression.codec.MAX_PAYLOAD", 10)
    joiner = TensorJoiner()
    joiner.add(Tensor(bytes(6), (3,), dtype="float32", chunks=2))
    with pytest.raises(LimitExceeded, match="10 bytes"):
        joiner.add(Tensor(bytes(6)))

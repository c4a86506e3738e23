"""SafeTensors heads written by the ``safetensors`` package are read, and ours are read by it."""

from __future__ import annotations

import json
from contextlib import suppress
from random import Random
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import KwaaiNetError, ModelFileError, Truncated, UnsupportedModel
from kwaainet.formats.safetensors import MAX_HEADER_BYTES, header_bytes, header_of, parse
from kwaainet.formats.stored import ELEMENT_BITS, WEIGHT_TYPES

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones(5, np.float16),
    "empty": np.zeros((0, 4), np.float32),
}


def test_places_equal_the_reference_writers() -> None:
    data = safetensors.numpy.save(ARRAYS)
    tensors = parse(data, len(data))
    assert tensors.keys() == ARRAYS.keys()
    for name, tensor in tensors.items():
        assert tensor.shape == ARRAYS[name].shape
        assert data[tensor.offset : tensor.offset + tensor.length] == ARRAYS[name].tobytes()


def test_the_reference_reads_what_we_write() -> None:
    head = header_bytes({name: array.shape for name, array in ARRAYS.items()})
    assert len(head) % 8 == 0
    written = head + b"".join(array.astype("<f4").tobytes() for array in ARRAYS.values())
    for name, array in safetensors.numpy.load(written).items():
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_a_prefix_asks_for_more() -> None:
    data = safetensors.numpy.save(ARRAYS)
    with pytest.raises(Truncated) as first:
        parse(data[:3], len(data))
    assert first.value.needed == 8
    with pytest.raises(Truncated) as second:
        parse(data[:8], len(data))
    assert parse(data[: second.value.needed], len(data)) == parse(data, len(data))


def with_header(header: Any) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


def one(**change: Any) -> dict[str, Any]:
    return {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **change}}


@pytest.mark.parametrize(
    ("header", "error", "message"),
    [
        (b"{", ModelFileError, "not JSON"),
        (b'{"a":' * 20_000, ModelFileError, "not JSON"),
        (b"{\xff\xfe", ModelFileError, "not JSON"),
        (b" {}", ModelFileError, "its head begins with b' {}"),
        ([], ModelFileError, "its head begins with"),
        ({"t": 1}, ModelFileError, "tensor t: not an object"),
        (one(dtype="Q9"), UnsupportedModel, "tensor t: type Q9 is unknown; known are BOOL, U8"),
        (one(dtype=None), UnsupportedModel, "None is unknown"),
        (one(dtype="F4", shape=[15]), ModelFileError, "15 numbers of F4 do not end with a byte"),
        (one(shape=[-2]), ModelFileError, "shape must be"),
        (one(shape=[1] * 9), ModelFileError, "shape must be"),
        (one(shape=[2.0]), ModelFileError, "shape must be"),
        (one(shape=[3]), ModelFileError, r"8 bytes do not hold \[3\] of F32"),
        (one(shape=[1 << 40, 1 << 40]), ModelFileError, "do not hold"),
        (one(data_offsets=[8, 0]), ModelFileError, "data_offsets must be"),
        (one(data_offsets=[0]), ModelFileError, "data_offsets must be"),
        (one(data_offsets=[1000, 1008]), ModelFileError, "before t, belong to no tensor"),
        (one(shape=[4], data_offsets=[0, 16]), ModelFileError, "truncated: tensor t ends"),
        (one(shape=[1], data_offsets=[0, 4]), ModelFileError, "4 bytes after the last tensor, t"),
        (one(shape=[1], data_offsets=[4, 8]), ModelFileError, "before t, belong to no tensor"),
        (
            {**one(), "u": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
            ModelFileError,
            "t and u overlap",
        ),
        (b'{"t":1,"t":2}', ModelFileError, "the key t twice"),
        ({"__metadata__": {"a": 1}, **one()}, ModelFileError, "__metadata__ must be"),
    ],
)
def test_broken_heads_are_refused(header: Any, error: type[KwaaiNetError], message: str) -> None:
    data = with_header(header)
    with pytest.raises(error, match=message):
        parse(data, len(data))


def test_a_head_beyond_the_cap_is_refused_not_asked_for() -> None:
    with pytest.raises(ModelFileError, match="head claims") as caught:
        parse((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), 1 << 40)
    assert not isinstance(caught.value, Truncated)


def test_every_type_is_listed_and_only_numbers_with_fractions_may_be_weights() -> None:
    for dtype, bits in ELEMENT_BITS.items():
        data = header_of({"t": (dtype, (2, 4))}) + bytes(bits)
        (tensor,) = parse(data, len(data)).values()
        assert (tensor.dtype, tensor.shape, tensor.length) == (dtype, (2, 4), bits)
        assert bool(tensor.problem) == (dtype not in WEIGHT_TYPES)
    with pytest.raises(UnsupportedModel, match="tensor t has the type C128; weights may be F"):
        tensor.check_weight("t")


def test_damaged_files_raise_only_our_errors() -> None:
    data = safetensors.numpy.save(ARRAYS)
    random = Random(4)
    for _ in range(500):
        broken = bytearray(data[: random.randrange(len(data))] if random.random() < 0.2 else data)
        for _ in range(random.randrange(4)):
            if broken:
                broken[random.randrange(len(broken))] = random.randrange(256)
        with suppress(KwaaiNetError):
            parse(bytes(broken), len(broken))


@given(st.binary(max_size=100))
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    for whole in (data, with_header(b'{"t":' + data + b"}")):
        with suppress(KwaaiNetError):
            parse(whole, len(whole))

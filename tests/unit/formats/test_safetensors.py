"""SafeTensors heads written by the ``safetensors`` package are read, and ours are read by it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import KwaaiNetError, ModelFileError, Truncated, UnsupportedModel
from kwaainet.formats.safetensors import MAX_HEADER_BYTES, header_bytes, parse, parse_index

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
    return len(text).to_bytes(8, "little") + text + bytes(64)


def one(**change: Any) -> dict[str, Any]:
    return {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **change}}


@pytest.mark.parametrize(
    ("header", "error", "message"),
    [
        (b"{", ModelFileError, "not JSON"),
        (b"[" * 50_000, ModelFileError, "not JSON"),
        (b"\xff\xfe", ModelFileError, "not JSON"),
        ([], ModelFileError, "not a JSON object but list"),
        ({"t": 1}, ModelFileError, "tensor t: not an object"),
        (one(dtype="I64"), UnsupportedModel, "'I64'; supported are F32, F16, BF16"),
        (one(dtype=None), UnsupportedModel, "None; supported"),
        (one(shape=[-2]), ModelFileError, "shape must be"),
        (one(shape=[1] * 9), ModelFileError, "shape must be"),
        (one(shape=[2.0]), ModelFileError, "shape must be"),
        (one(shape=[3]), ModelFileError, r"8 bytes do not hold \[3\] of F32"),
        (one(shape=[1 << 40, 1 << 40]), ModelFileError, "do not hold"),
        (one(data_offsets=[8, 0]), ModelFileError, "data_offsets must be"),
        (one(data_offsets=[0]), ModelFileError, "data_offsets must be"),
        (one(data_offsets=[1000, 1008]), ModelFileError, "truncated: tensor t ends"),
        (
            {**one(), "u": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
            ModelFileError,
            "t and u overlap",
        ),
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


@given(st.binary(max_size=100))
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    for whole in (data, with_header(b'{"t":' + data + b"}")):
        with suppress(KwaaiNetError):
            parse(whole, len(whole))


def test_an_index_groups_tensors_by_file() -> None:
    index = {"metadata": {}, "weight_map": {"a": "x.safetensors", "b": "y.safetensors", "c": "x.safetensors"}}
    assert parse_index(json.dumps(index).encode()) == {"x.safetensors": ["a", "c"], "y.safetensors": ["b"]}
    for broken in ({}, {"weight_map": []}, {"weight_map": {"a": 1}}):
        with pytest.raises(ModelFileError, match="weight_map must be"):
            parse_index(json.dumps(broken).encode())

"""Every storage type gives the numbers the ``gguf`` package gives, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import ModelFileError
from kwaainet.formats.quants import _CHUNK, STORAGE_TYPES, byte_length, dequantize


def reference(dtype: str, data: bytes) -> np.ndarray:
    kind = gguf.GGMLQuantizationType[dtype]
    if dtype in ("F32", "F16"):
        return np.frombuffer(data, "<f4" if dtype == "F32" else "<f2").astype(np.float32)
    return gguf.quants.dequantize(np.frombuffer(data, np.uint8)[None], kind)[0]


@pytest.mark.parametrize("dtype", STORAGE_TYPES)
@given(st.data())
def test_any_bits_decode_as_the_reference_does(dtype: str, data: st.DataObject) -> None:
    storage = STORAGE_TYPES[dtype]
    blocks = data.draw(st.integers(1, 5))
    raw = data.draw(st.binary(min_size=blocks * storage.size, max_size=blocks * storage.size))
    with np.errstate(all="ignore"):  # scales may be infinite or not numbers
        got = dequantize(dtype, raw, blocks * storage.block)
        expected = reference(dtype, raw)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["Q4_0", "Q4_1", "Q8_0"])
def test_tensors_longer_than_a_chunk(dtype: str) -> None:
    weights = np.random.default_rng(3).standard_normal((1, 32 * (_CHUNK + 5)), dtype=np.float32)
    raw = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[dtype]).tobytes()
    got = dequantize(dtype, raw, weights.size)
    np.testing.assert_array_equal(got, reference(dtype, raw))
    assert np.abs(got - weights[0]).max() < 0.6  # and it is what was stored, roughly


@pytest.mark.parametrize("dtype", STORAGE_TYPES)
def test_wrong_length_is_refused(dtype: str) -> None:
    storage = STORAGE_TYPES[dtype]
    for length in (0, storage.size - 1, storage.size + 1):
        with pytest.raises(ModelFileError, match=f"take {storage.size} bytes"):
            dequantize(dtype, bytes(length), storage.block)


def test_part_of_a_block_and_unknown_types_are_refused() -> None:
    with pytest.raises(ModelFileError, match="do not fill Q8_0 blocks of 32"):
        byte_length("Q8_0", 33)
    with pytest.raises(ModelFileError, match="Q4_K is unknown"):
        byte_length("Q4_K", 256)


def test_an_empty_tensor_is_empty() -> None:
    assert dequantize("Q4_1", b"", 0).shape == (0,)

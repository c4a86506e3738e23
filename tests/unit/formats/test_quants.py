"""Every storage type gives the numbers the ``gguf`` package gives, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import ModelFileError
from kwaainet.formats.quants import _CHUNK, STORAGE_TYPES, byte_length, dequantize

TYPES = [name for name in STORAGE_TYPES if name in gguf.GGMLQuantizationType.__members__]
NUMPY = {"F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}


def reference(dtype: str, data: bytes) -> np.ndarray:
    if dtype in NUMPY:  # the package leaves these as they are
        with np.errstate(all="ignore"):
            return np.frombuffer(data, NUMPY[dtype]).astype(np.float32)
    with np.errstate(all="ignore"):
        kind = gguf.GGMLQuantizationType[dtype]
        return gguf.quants.dequantize(np.frombuffer(data, np.uint8)[None], kind)[0]


def same(got: np.ndarray, expected: np.ndarray) -> None:
    """Bit for bit, the sign of zero too; only what is no number may be one in another way."""
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[numbers]), np.signbit(expected[numbers]))


@pytest.mark.parametrize("dtype", TYPES)
@given(st.data())
def test_any_bits_decode_as_the_reference_does(dtype: str, data: st.DataObject) -> None:
    storage = STORAGE_TYPES[dtype]
    blocks = data.draw(st.integers(1, 5))
    raw = data.draw(st.binary(min_size=blocks * storage.size, max_size=blocks * storage.size))
    same(dequantize(dtype, raw, blocks * storage.block), reference(dtype, raw))


@pytest.mark.parametrize("dtype", TYPES)
def test_random_tensors_longer_than_a_chunk(dtype: str) -> None:
    """Hypothesis likes zeros; here every bit of every field is as likely, scales beyond all numbers too."""
    storage = STORAGE_TYPES[dtype]
    blocks = 2 * _CHUNK // storage.block + 5
    raw = np.random.default_rng(3).integers(0, 256, blocks * storage.size, np.uint8).tobytes()
    same(dequantize(dtype, raw, blocks * storage.block), reference(dtype, raw))


@pytest.mark.parametrize("dtype", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_what_was_stored_comes_back_roughly(dtype: str) -> None:
    weights = np.random.default_rng(3).standard_normal((1, 3200), dtype=np.float32)
    raw = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[dtype]).tobytes()
    assert np.abs(dequantize(dtype, raw, weights.size) - weights[0]).max() < 0.6


@pytest.mark.parametrize("dtype", TYPES)
def test_sizes_are_the_references(dtype: str) -> None:
    kind = gguf.GGMLQuantizationType[dtype]
    assert (STORAGE_TYPES[dtype].block, STORAGE_TYPES[dtype].size) == gguf.GGML_QUANT_SIZES[kind]


@pytest.mark.parametrize("dtype", STORAGE_TYPES)
def test_wrong_length_is_refused(dtype: str) -> None:
    storage = STORAGE_TYPES[dtype]
    for length in (0, storage.size - 1, storage.size + 1):
        with pytest.raises(ModelFileError, match=f"take {storage.size} bytes"):
            dequantize(dtype, bytes(length), storage.block)


def test_part_of_a_block_and_unknown_types_are_refused() -> None:
    with pytest.raises(ModelFileError, match="do not fill Q4_K blocks of 256"):
        byte_length("Q4_K", 128)
    with pytest.raises(ModelFileError, match="IQ2_XS is unknown"):
        byte_length("IQ2_XS", 256)


@pytest.mark.parametrize("dtype", STORAGE_TYPES)
def test_an_empty_tensor_is_empty(dtype: str) -> None:
    assert dequantize(dtype, b"", 0).shape == (0,)

"""Numbers are stored as the ``gguf`` package stores them, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from kwaainet.errors import InputError, UnsupportedModel
from kwaainet.formats.quantize import _CHUNK, quantize
from kwaainet.formats.quants import dequantize

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0")


def reference(dtype: str, numbers: np.ndarray) -> bytes:
    return gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[dtype]).tobytes()


@pytest.mark.parametrize("dtype", TYPES)
def test_odd_numbers_are_stored_as_by_the_reference(dtype: str) -> None:
    """Halves to round, zeros of both signs, numbers that float16 or their inverse cannot hold."""
    rng = np.random.default_rng(6)
    odd = np.array([0, -0.0, 0.5, -0.5, 1.5, 7.5, -8, 127, 1e-30, -1e-42, 65504, -7e4, 3e38], np.float32)
    numbers = rng.choice(odd, (500, 32)) * rng.choice(np.float32([0, 1, 1, 2**-9]), (500, 1))
    with np.errstate(all="ignore"):
        assert quantize(dtype, numbers) == reference(dtype, numbers)


@pytest.mark.parametrize("dtype", TYPES)
def test_tensors_longer_than_a_chunk(dtype: str) -> None:
    numbers = np.random.default_rng(5).standard_normal((3, _CHUNK + 96), np.float32)
    stored = quantize(dtype, numbers)
    assert stored == reference(dtype, numbers)
    read = dequantize(dtype, stored, numbers.size).reshape(numbers.shape)
    assert np.abs(read - numbers).max() <= {"Q4_0": 0.6, "Q8_0": 0.03, "BF16": 0.02}.get(dtype, 2e-3)


def test_bf16_keeps_what_is_not_finite() -> None:
    numbers = np.array([np.inf, -np.inf, np.nan, 3.4e38], np.float32)
    read = dequantize("BF16", quantize("BF16", numbers), 4)
    np.testing.assert_array_equal(read, np.array([np.inf, -np.inf, np.nan, np.inf], np.float32))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_would_spoil_a_block_is_refused(bad: float) -> None:
    numbers = np.zeros((2, 32), np.float32)
    numbers[1, 7] = bad
    with pytest.raises(InputError, match="Q8_0 cannot hold"):
        quantize("Q8_0", numbers)


def test_rows_must_fill_blocks_and_types_be_known() -> None:
    with pytest.raises(InputError, match="rows of 33 numbers"):
        quantize("Q4_0", np.zeros((32, 33), np.float32))
    with pytest.raises(UnsupportedModel, match="Q4_K cannot be written"):
        quantize("Q4_K", np.zeros(256, np.float32))


def test_an_empty_tensor_is_no_bytes() -> None:
    assert quantize("Q8_0", np.zeros((0, 32), np.float32)) == b""

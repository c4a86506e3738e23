"""How tensors' numbers are stored in model files, and how they become float32.

Follows ggml's block formats (``ggml-quants.c``; the ``gguf`` package's ``quants.py`` is the test
oracle). Rule of the file: whole tensors at numpy's speed, chunk by chunk straight into the result,
because a tab has neither the memory nor the time for temporaries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError
from ..ports import Floats

_CHUNK = 1 << 11  # blocks handled at once: the quarter MiB of result they make stays in a core's cache


@dataclass(frozen=True, slots=True)
class StorageType:
    """Numbers come in blocks of ``block`` elements that take ``size`` bytes."""

    block: int
    size: int


STORAGE_TYPES = {
    "F32": StorageType(1, 4),
    "F16": StorageType(1, 2),
    "BF16": StorageType(1, 2),
    "Q4_0": StorageType(32, 18),
    "Q4_1": StorageType(32, 20),
    "Q8_0": StorageType(32, 34),
}

# The scale d (and minimum m) of a block, then its 32 quants; 4-bit ones hold element i in the low
# and element i + 16 in the high half of byte i.
_Q4_0 = np.dtype([("d", "<f2"), ("q", "u1", 16)])
_Q4_1 = np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)])
_Q8_0 = np.dtype([("d", "<f2"), ("q", "i1", 32)])


def byte_length(dtype: str, count: int) -> int:
    """Bytes that ``count`` numbers take; ``ModelFileError`` on an unknown type or a part of a block."""
    storage = STORAGE_TYPES.get(dtype)
    if storage is None:
        raise ModelFileError(f"tensor type {dtype:.40} is unknown; known are {', '.join(STORAGE_TYPES)}")
    blocks, rest = divmod(count, storage.block)
    if rest:
        raise ModelFileError(f"{count} numbers do not fill {dtype} blocks of {storage.block}")
    return blocks * storage.size


def dequantize(dtype: str, data: bytes | bytearray | memoryview, count: int) -> Floats:
    """``count`` numbers as float32 [count]; for F32 a view of ``data``, else a new array.

    Raises ``ModelFileError`` if ``data`` is not exactly as long as ``count`` numbers are.
    """
    expected = byte_length(dtype, count)
    if len(data) != expected:
        raise ModelFileError(f"{count} numbers of {dtype} take {expected} bytes, but {len(data)} were given")
    match dtype:
        case "F32":
            return np.frombuffer(data, "<f4")
        case "F16":
            return np.frombuffer(data, "<f2").astype(np.float32)
        case "BF16":  # the upper half of a float32
            wide = np.frombuffer(data, "<u2").astype(np.uint32)
            wide <<= np.uint32(16)
            return wide.view(np.float32)
        case "Q8_0":
            return _eight_bits(np.frombuffer(data, _Q8_0))
        case "Q4_0":
            return _four_bits(np.frombuffer(data, _Q4_0), None)
        case _:
            blocks = np.frombuffer(data, _Q4_1)
            return _four_bits(blocks, blocks["m"])


def _eight_bits(blocks: NDArray[Any]) -> Floats:
    result = np.empty((len(blocks), 32), np.float32)
    for start in range(0, len(blocks), _CHUNK):
        chunk = blocks[start : start + _CHUNK]
        np.multiply(chunk["q"], chunk["d"][:, None].astype(np.float32), out=result[start : start + _CHUNK])
    return result.reshape(-1)


def _four_bits(blocks: NDArray[Any], minima: NDArray[Any] | None) -> Floats:
    """``q * d + m`` with the block's minimum, or ``(q - 8) * d`` where there is none (Q4_0)."""
    result = np.empty((len(blocks), 32), np.float32)
    for start in range(0, len(blocks), _CHUNK):
        part = slice(start, start + _CHUNK)
        quants = blocks["q"][part]
        out = result[part]
        out[:, :16] = quants & 15
        out[:, 16:] = quants >> 4
        if minima is None:
            out -= 8
        out *= blocks["d"][part, None].astype(np.float32)
        if minima is not None:
            out += minima[part, None].astype(np.float32)
    return result.reshape(-1)

"""How tensors' numbers are stored in model files, and how they become float32.

Follows ggml's types (``ggml.h``, ``ggml-common.h``; the ``gguf`` package's ``quants.py`` is the test
oracle). Rule of the file: whole tensors at numpy's speed, chunk by chunk straight into the result,
because a tab has neither the memory nor the time for temporaries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError
from ..ports import Floats
from .float8 import NUMBERS
from .ggjt_quants import GGJT_DECODERS
from .k_quants import K_DECODERS
from .legacy_quants import DECODERS

_CHUNK = 1 << 16  # numbers made at once: their quarter MiB stays in a core's cache
_PLAIN = {
    "F32": "<f4",
    "F16": "<f2",
    "F64": "<f8",
    "I8": "i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
}
_BLOCKS: dict[str, Callable[[NDArray[Any], Floats], None]] = {
    **DECODERS,
    **K_DECODERS,
    **GGJT_DECODERS,
}


@dataclass(frozen=True, slots=True)
class StorageType:
    """Numbers come in blocks of ``block`` elements that take ``size`` bytes."""

    block: int
    size: int


STORAGE_TYPES = {
    **{name: StorageType(1, np.dtype(form).itemsize) for name, form in _PLAIN.items()},
    **{name: StorageType(1, 1) for name in NUMBERS},
    "BF16": StorageType(1, 2),
    "Q4_0": StorageType(32, 18),
    "Q4_1": StorageType(32, 20),
    "Q5_0": StorageType(32, 22),
    "Q5_1": StorageType(32, 24),
    "Q8_0": StorageType(32, 34),
    "Q2_K": StorageType(256, 84),
    "Q3_K": StorageType(256, 110),
    "Q4_K": StorageType(256, 144),
    "Q5_K": StorageType(256, 176),
    "Q6_K": StorageType(256, 210),
    "GGJT1_Q4_0": StorageType(32, 20),
    "GGJT1_Q4_1": StorageType(32, 24),
    "GGJT1_Q4_2": StorageType(16, 10),
    "GGJT1_Q4_3": StorageType(16, 12),
    "GGJT1_Q5_0": StorageType(32, 22),
    "GGJT1_Q5_1": StorageType(32, 24),
    "GGJT2_Q4_0": StorageType(32, 20),
    "GGJT2_Q4_1": StorageType(32, 24),
    "GGJT2_Q8_0": StorageType(32, 36),
}


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

    What float32 cannot hold becomes the nearest it can (F64, I32, I64) or infinite. Raises
    ``ModelFileError`` if ``data`` is not exactly as long as ``count`` numbers are.
    """
    expected = byte_length(dtype, count)
    if len(data) != expected:
        raise ModelFileError(f"{count} numbers of {dtype} take {expected} bytes, but {len(data)} were given")
    with np.errstate(over="ignore", invalid="ignore"):  # scales may be infinite or no numbers
        if dtype == "BF16":  # the upper half of a float32
            wide = np.frombuffer(data, "<u2").astype(np.uint32)
            wide <<= np.uint32(16)
            return wide.view(np.float32)
        if dtype in NUMBERS:
            return NUMBERS[dtype][np.frombuffer(data, np.uint8)]
        if dtype in _PLAIN:
            return np.frombuffer(data, _PLAIN[dtype]).astype(np.float32, copy=False)
        return _in_chunks(_BLOCKS[dtype], np.frombuffer(data, np.uint8), STORAGE_TYPES[dtype])


def _in_chunks(
    decode: Callable[[NDArray[Any], Floats], None], data: NDArray[Any], form: StorageType
) -> Floats:
    blocks = data.reshape(-1, form.size)
    result = np.empty((len(blocks), form.block), np.float32)
    step = _CHUNK // form.block
    for start in range(0, len(blocks), step):
        decode(blocks[start : start + step], result[start : start + step])
    return result.reshape(-1)

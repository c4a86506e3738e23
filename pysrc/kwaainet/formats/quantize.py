"""From float32 to the bytes of a storage type: F32, F16, BF16, Q8_0 and Q4_0.

Follows ``ggml-quants.c`` (``quantize_row_*_ref``) and the ``gguf`` package's ``quants.py``, bit for
bit. Rule of the file: chunk by chunk, so that a tensor costs its result and little more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, UnsupportedModel
from ..ports import Floats
from .quants import STORAGE_TYPES

_CHUNK = 1 << 16  # numbers at once; a multiple of every block


def quantize(dtype: str, numbers: Floats) -> bytes:
    """``numbers`` as ``dtype`` stores them, the last dimension fastest.

    Raises ``UnsupportedModel`` for a type that cannot be written here and ``InputError`` where rows
    do not fill blocks or a number is not finite (a block's scale would take its neighbours with it).
    """
    encode = _ENCODERS.get(dtype)
    if encode is None:
        raise UnsupportedModel(f"{dtype:.40} cannot be written; one of {', '.join(_ENCODERS)} can")
    block = STORAGE_TYPES[dtype].block
    if numbers.shape[-1:] and numbers.shape[-1] % block:
        raise InputError(f"rows of {numbers.shape[-1]} numbers do not fill {dtype} blocks of {block}")
    flat = np.ascontiguousarray(numbers, np.float32).reshape(-1)
    if block > 1 and not np.isfinite(flat).all():
        raise InputError(f"a number is infinite or none at all, which {dtype} cannot hold; write it as F32")
    with np.errstate(over="ignore"):  # float16 has its infinity
        return b"".join(encode(flat[at : at + _CHUNK]).tobytes() for at in range(0, flat.size, _CHUNK))


def _bf16(numbers: Floats) -> NDArray[Any]:
    """The upper halves, rounded to the nearest even; a NaN stays one."""
    bits = numbers.view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))
    quiet = (bits & 0xFFFF0000) | np.uint32(0x400000)
    return (np.where(np.isnan(numbers), quiet, rounded) >> 16).astype("<u2")


def _inverse(scales: Floats) -> Floats:
    """1 / scale, 0 where the scale is; what overflows becomes infinite, as in the reference."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(scales == 0, np.float32(0), np.float32(1) / scales)


def _q8_0(numbers: Floats) -> NDArray[Any]:
    blocks = numbers.reshape(-1, 32)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(invalid="ignore"):
        scaled = blocks * _inverse(scales)
        whole = np.floor(np.abs(scaled))
        whole += np.floor(2 * (np.abs(scaled) - whole))  # halves go away from zero
        quants = (np.sign(scaled) * whole).astype(np.int8)
    return np.concatenate([scales.astype("<f2").view(np.uint8), quants.view(np.uint8)], axis=1)


def _q4_0(numbers: Floats) -> NDArray[Any]:
    blocks = numbers.reshape(-1, 32)
    farthest = np.abs(blocks).argmax(axis=1)[:, None]
    scales = np.take_along_axis(blocks, farthest, axis=1) / np.float32(-8)
    with np.errstate(invalid="ignore"):
        quants = np.trunc(blocks * _inverse(scales) + np.float32(8.5)).astype(np.uint8)
    np.minimum(quants, 15, out=quants)
    packed = quants[:, :16] | (quants[:, 16:] << 4)
    return np.concatenate([scales.astype("<f2").view(np.uint8), packed], axis=1)


_ENCODERS: dict[str, Callable[[Floats], NDArray[Any]]] = {
    "F32": lambda numbers: numbers.astype("<f4", copy=False),
    "F16": lambda numbers: numbers.astype("<f2"),
    "BF16": _bf16,
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
}

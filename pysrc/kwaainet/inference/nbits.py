"""Quantized blocks of a model file as onnxruntime's ``MatMulNBits`` wants them, not dequantized.

Follows ggml's block formats (``ggml-quants.c``; element i and i + 16 of a block share a byte) and
onnxruntime's ``MatMulNBits`` (element 2j and 2j + 1 share a byte; a number is (quant - zero) x scale,
where zero is 8 or 128 unless given). Rule of the file: every number stays what it is,
to the rounding of float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..formats.config import ModelConfig
from ..formats.weights import Weight
from ..ports import Floats

BLOCK = 32
BITS = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8}  # what can be repacked
_FOUR_BIT_ZERO = np.float32(8)


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix [out, in] in blocks of 32 along ``in``; ``bits`` are 4 or 8.

    ``quants`` uint8 [out, in/32, 16 or 32], ``scales`` float32 [out, in/32], ``zeros`` like ``scales``
    or ``None`` where every zero is 8 or 128.
    """

    bits: int
    quants: NDArray[np.uint8]
    scales: Floats
    zeros: Floats | None = None

    def floats(self) -> Floats:
        """The numbers, float32 [out, in]: what a runtime computes with."""
        if self.bits == 8:
            numbers = self.quants.astype(np.float32) - np.float32(128)
        else:
            numbers = np.empty((*self.scales.shape, BLOCK), np.float32)
            numbers[..., 0::2] = self.quants & 15
            numbers[..., 1::2] = self.quants >> 4
            numbers -= _FOUR_BIT_ZERO if self.zeros is None else self.zeros[..., None]
        return (numbers * self.scales[..., None]).reshape(len(numbers), -1)


def repack(weight: Weight, config: ModelConfig) -> Blocks:
    """The same numbers. Raises ``InputError`` for a type that ``BITS`` has not."""
    rows = weight.rows(config)
    match weight.dtype:
        case "Q4_0":
            parts = _parts(rows, [("d", "<f2"), ("q", "u1", 16)])
            return Blocks(4, _pairs(parts["q"]), parts["d"].astype(np.float32))
        case "Q4_1":
            parts = _parts(rows, [("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)])
            return _with_minima(_pairs(parts["q"]), parts["d"], parts["m"])
        case "Q8_0":
            parts = _parts(rows, [("d", "<f2"), ("q", "u1", 32)])
            return Blocks(8, parts["q"] ^ np.uint8(128), parts["d"].astype(np.float32))
    raise InputError(f"{weight.dtype} blocks cannot be repacked; {', '.join(BITS)} can")


def side_by_side(parts: list[Blocks]) -> Blocks:
    """Matrices of the same ``in`` and bits as one whose rows are all of theirs."""
    zeros = None
    if any(part.zeros is not None for part in parts):
        zeros = np.concatenate(
            [np.full_like(p.scales, _FOUR_BIT_ZERO) if p.zeros is None else p.zeros for p in parts]
        )
    quants = np.concatenate([part.quants for part in parts])
    return Blocks(parts[0].bits, quants, np.concatenate([part.scales for part in parts]), zeros)


def _parts(rows: NDArray[np.uint8], fields: list[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(rows).view(np.dtype(fields))


def _pairs(quants: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Neighbours into one byte: bytes 2j and 2j + 1 hold elements 2j, 2j + 1, and the same plus 16."""
    wide = np.ascontiguousarray(quants).view("<u2")
    result = np.empty(quants.shape, np.uint8)
    result[..., :8] = (wide & 0x000F) | ((wide >> 4) & 0x00F0)
    result[..., 8:] = ((wide >> 4) & 0x000F) | ((wide >> 8) & 0x00F0)
    return result


def _with_minima(quants: NDArray[np.uint8], scales: NDArray[Any], minima: NDArray[Any]) -> Blocks:
    """q x d + m is (q + m / d) x d; where d is 0, a block of m alone: (0 + 1) x m."""
    d, m = scales.astype(np.float32), minima.astype(np.float32)
    flat = d == 0
    quants[flat] = 0
    zeros = -np.divide(m, d, out=np.ones_like(m), where=~flat)
    return Blocks(4, quants, np.where(flat, m, d), zeros)

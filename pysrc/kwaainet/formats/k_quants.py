"""ggml's K types, blocks of 256 numbers with scales of their own for every 16 or 32: Q2_K to Q6_K.

Follows ``ggml-common.h`` (layouts) and ``ggml-quants.c`` (``dequantize_row_*_K``). Rule of the file:
a decoder gets blocks as bytes [n, size], fills float32 [n, 256], and does the reference's float32
operations in its order, so that every bit is the reference's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ports import Floats
from .legacy_quants import half, scaled


def _q2_k(blocks: NDArray[Any], out: Floats) -> None:
    """16 bytes of a scale (low) and a minimum (high) for 16 numbers each, 64 of quants, d, dmin."""
    scales = blocks[:, :16]
    groups = out.reshape(-1, 16, 16)
    scaled(_two_bits(blocks[:, 16:80]), (half(blocks, 80) * (scales & 15))[:, :, None], groups)
    groups -= (half(blocks, 82) * (scales >> 4))[:, :, None]


def _q3_k(blocks: NDArray[Any], out: Floats) -> None:
    """32 bytes of third bits, 64 of the lower two, 12 of six-bit scales for 16 numbers each, d."""
    quants = _two_bits(blocks[:, 32:96])
    planes = quants.reshape(-1, 8, 32)
    for plane in range(8):
        planes[:, plane] |= ((blocks[:, :32] >> np.uint8(plane)) & 1) << 2
    packed = blocks[:, 96:108]
    scales = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    for quarter in range(4):
        scales[:, 4 * quarter : 4 * quarter + 4] |= ((packed[:, 8:] >> np.uint8(2 * quarter)) & 3) << 4
    factors = half(blocks, 108) * (scales.view(np.int8) - np.int8(32))
    scaled(quants, factors[:, :, None], out.reshape(-1, 16, 16), 4)


def _q4_k(blocks: NDArray[Any], out: Floats) -> None:
    """d, dmin, 12 bytes of scales and minima, 128 of quants."""
    _scale_and_shift(blocks, _four_bits(blocks[:, 16:]), out)


def _q5_k(blocks: NDArray[Any], out: Floats) -> None:
    """As Q4_K, with 32 bytes of fifth bits before the quants: bit g of byte i is of group g."""
    quants = _four_bits(blocks[:, 48:])
    groups = quants.reshape(-1, 8, 32)
    for group in range(8):
        groups[:, group] |= ((blocks[:, 16:48] >> np.uint8(group)) & 1) << 4
    _scale_and_shift(blocks, quants, out)


def _q6_k(blocks: NDArray[Any], out: Floats) -> None:
    """128 bytes of lower nibbles, 64 of upper two bits, 16 signed scales for 16 numbers each, d."""
    low = blocks[:, :128].reshape(-1, 2, 2, 32)
    quants = _two_bits(blocks[:, 128:192])
    quants <<= np.uint8(4)
    planes = quants.reshape(-1, 2, 2, 2, 32)  # 64 bytes of nibbles: first all low ones, then all high
    planes[:, :, 0] |= low & 15
    planes[:, :, 1] |= low >> 4
    factors = half(blocks, 208) * blocks[:, 192:208].view(np.int8)
    scaled(quants.reshape(-1, 16, 16), factors[:, :, None], out.reshape(-1, 16, 16), 32)


def _two_bits(packed: NDArray[Any]) -> NDArray[Any]:
    """64 bytes [n, 64] to [n, 16, 16]: byte i of a half holds its numbers i, i + 32, i + 64, i + 96."""
    halves = packed.reshape(-1, 2, 32)
    quants = np.empty((len(packed), 2, 4, 32), np.uint8)
    for plane in range(4):
        np.right_shift(halves, np.uint8(2 * plane), out=quants[:, :, plane])
    quants &= 3
    return quants.reshape(-1, 16, 16)


def _four_bits(packed: NDArray[Any]) -> NDArray[Any]:
    """128 bytes [n, 128] to [n, 8, 32]: byte i of a quarter holds its numbers i and i + 32."""
    quarters = packed.reshape(-1, 4, 32)
    quants = np.empty((len(packed), 4, 2, 32), np.uint8)
    np.bitwise_and(quarters, 15, out=quants[:, :, 0])
    np.right_shift(quarters, 4, out=quants[:, :, 1])
    return quants.reshape(-1, 8, 32)


def _scale_and_shift(blocks: NDArray[Any], quants: NDArray[Any], out: Floats) -> None:
    """``q * (d * scale) - dmin * minimum`` for every 32 numbers.

    Eight scales and eight minima of six bits lie in 12 bytes: the last four of either have their
    lower bits in the last four bytes, and their upper two atop those of the first four.
    """
    first, second, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([first & 63, (rest & 15) | ((first >> 6) << 4)], axis=1)
    minima = np.concatenate([second & 63, (rest >> 4) | ((second >> 6) << 4)], axis=1)
    groups = out.reshape(-1, 8, 32)
    scaled(quants, (half(blocks, 0) * scales)[:, :, None], groups)
    groups -= (half(blocks, 2) * minima)[:, :, None]


K_DECODERS = {"Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k}

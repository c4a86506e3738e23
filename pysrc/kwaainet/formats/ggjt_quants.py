"""The block layouts that ggml had before May 19th 2023, as the file versions up to ggjt v2 hold them.

Follows llama.cpp's pull requests 1405 (before it, ggjt v1: byte i holds the numbers 2i and 2i + 1)
and 1508 (before it, ggjt v2: scales of Q4 and Q8 are float32), and the ``ggml.c`` of those days. Rule
of the file: as in ``legacy_quants``. A float32 scale is kept, since rounding it to today's float16
would be a quantization of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ports import Floats
from .legacy_quants import fifth_bits, half, nibbles, scaled


def _single(blocks: NDArray[Any], at: int) -> Floats:
    """The float32 that begins at byte ``at`` of each block [n, 1]."""
    return blocks[:, at : at + 4].copy().view("<f4")


def _pairs(packed: NDArray[Any]) -> NDArray[Any]:
    """Bytes [n, k] to numbers [n, 2k]: byte i holds number 2i low and number 2i + 1 high."""
    quants = np.empty((*packed.shape, 2), np.uint8)
    np.bitwise_and(packed, 15, out=quants[..., 0])
    np.right_shift(packed, 4, out=quants[..., 1])
    return quants.reshape(len(packed), -1)


def _v1_q4_0(blocks: NDArray[Any], out: Floats) -> None:
    scaled(_pairs(blocks[:, 4:]), _single(blocks, 0), out, 8)


def _v1_q4_1(blocks: NDArray[Any], out: Floats) -> None:
    scaled(_pairs(blocks[:, 8:]), _single(blocks, 0), out)
    out += _single(blocks, 4)


def _v1_q4_2(blocks: NDArray[Any], out: Floats) -> None:
    scaled(_pairs(blocks[:, 2:]), half(blocks, 0), out, 8)


def _v1_q4_3(blocks: NDArray[Any], out: Floats) -> None:
    scaled(_pairs(blocks[:, 4:]), half(blocks, 0), out)
    out += half(blocks, 2)


def _v1_q5_0(blocks: NDArray[Any], out: Floats) -> None:
    quants = _pairs(blocks[:, 6:])
    quants |= fifth_bits(blocks[:, 2:6])
    scaled(quants, half(blocks, 0), out, 16)


def _v1_q5_1(blocks: NDArray[Any], out: Floats) -> None:
    quants = _pairs(blocks[:, 8:])
    quants |= fifth_bits(blocks[:, 4:8])
    scaled(quants, half(blocks, 0), out)
    out += half(blocks, 2)


def _v2_q4_0(blocks: NDArray[Any], out: Floats) -> None:
    scaled(nibbles(blocks[:, 4:]), _single(blocks, 0), out, 8)


def _v2_q4_1(blocks: NDArray[Any], out: Floats) -> None:
    scaled(nibbles(blocks[:, 8:]), _single(blocks, 0), out)
    out += _single(blocks, 4)


def _v2_q8_0(blocks: NDArray[Any], out: Floats) -> None:
    np.multiply(blocks[:, 4:].view(np.int8), _single(blocks, 0), out=out)


GGJT_DECODERS = {
    "GGJT1_Q4_0": _v1_q4_0,
    "GGJT1_Q4_1": _v1_q4_1,
    "GGJT1_Q4_2": _v1_q4_2,  # with Q4_3 the only blocks of 16; gone with ggjt v2
    "GGJT1_Q4_3": _v1_q4_3,
    "GGJT1_Q5_0": _v1_q5_0,
    "GGJT1_Q5_1": _v1_q5_1,
    "GGJT2_Q4_0": _v2_q4_0,
    "GGJT2_Q4_1": _v2_q4_1,
    "GGJT2_Q8_0": _v2_q8_0,  # ggjt v1's too
}

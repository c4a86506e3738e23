"""ggml's first quantized types, blocks of 32 numbers: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.

Follows ``ggml-common.h`` (layouts) and ``ggml-quants.c`` (``dequantize_row_*``). Rule of the file: a
decoder gets blocks as bytes [n, size], fills float32 [n, 32], and does the reference's float32
operations in its order, so that every bit is the reference's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ports import Floats


def half(blocks: NDArray[Any], at: int) -> Floats:
    """The float16 that begins at byte ``at`` of each block, as float32 [n, 1]."""
    return blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)


def nibbles(packed: NDArray[Any]) -> NDArray[Any]:
    """16 bytes [n, 16] to 32 numbers [n, 32]: byte i holds number i low and number i + 16 high."""
    quants = np.empty((len(packed), 32), np.uint8)
    np.bitwise_and(packed, 15, out=quants[:, :16])
    np.right_shift(packed, 4, out=quants[:, 16:])
    return quants


def fifth_bits(high: NDArray[Any]) -> NDArray[Any]:
    """16 for every number i whose bit i of the four bytes [n, 4] is set, else 0: uint8 [n, 32]."""
    bits = np.unpackbits(np.ascontiguousarray(high), axis=1, bitorder="little")
    bits <<= np.uint8(4)
    return bits


def scaled(quants: NDArray[Any], scale: Floats, out: Floats, offset: int = 0) -> None:
    """``(q - offset) * scale`` of uint8 quants, which are overwritten."""
    signed = quants.view(np.int8)
    if offset:
        signed -= np.int8(offset)
    np.multiply(signed, scale, out=out)


def _q4_0(blocks: NDArray[Any], out: Floats) -> None:
    scaled(nibbles(blocks[:, 2:]), half(blocks, 0), out, 8)


def _q4_1(blocks: NDArray[Any], out: Floats) -> None:
    scaled(nibbles(blocks[:, 4:]), half(blocks, 0), out)
    out += half(blocks, 2)


def _q5_0(blocks: NDArray[Any], out: Floats) -> None:
    quants = nibbles(blocks[:, 6:])
    quants |= fifth_bits(blocks[:, 2:6])
    scaled(quants, half(blocks, 0), out, 16)


def _q5_1(blocks: NDArray[Any], out: Floats) -> None:
    quants = nibbles(blocks[:, 8:])
    quants |= fifth_bits(blocks[:, 4:8])
    scaled(quants, half(blocks, 0), out)
    out += half(blocks, 2)


def _q8_0(blocks: NDArray[Any], out: Floats) -> None:
    np.multiply(blocks[:, 2:].view(np.int8), half(blocks, 0), out=out)


DECODERS = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0}

"""Blocks of 256 against formulas that look at one number at a time, as the layouts are described."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kwaainet.formats.k_quants import K_DECODERS

Block = np.ndarray
f32 = np.float32


def half(block: Block, at: int) -> np.float32:
    return f32(block[at : at + 2].copy().view("<f2")[0])


def six_bits(block: Block, group: int, first: int) -> int:
    """Scale (``first`` 4) or minimum (8) of one of Q4_K's and Q5_K's eight groups."""
    if group < 4:
        return int(block[first + group]) & 63
    nibble = int(block[8 + group]) >> (0 if first == 4 else 4) & 15
    return nibble | int(block[first + group - 4]) >> 6 << 4


def q2_k(block: Block, i: int) -> np.float32:
    half_of, plane, byte = i // 128, i % 128 // 32, i % 32
    quant = int(block[16 + 32 * half_of + byte]) >> 2 * plane & 3
    scale = int(block[i // 16])
    return half(block, 80) * f32(scale & 15) * f32(quant) - half(block, 82) * f32(scale >> 4)


def q3_k(block: Block, i: int) -> np.float32:
    quant = int(block[32 + 32 * (i // 128) + i % 32]) >> 2 * (i % 128 // 32) & 3
    quant -= 0 if int(block[i % 32]) >> i // 32 & 1 else 4
    group = i // 16
    low = int(block[96 + group % 8]) >> (4 if group >= 8 else 0) & 15
    high = int(block[104 + group % 4]) >> 2 * (group // 4) & 3
    return half(block, 108) * f32((low | high << 4) - 32) * f32(quant)


def q4_k(block: Block, i: int, quants: int = 16, fifth: int = 0) -> np.float32:
    quant = (int(block[quants + 32 * (i // 64) + i % 32]) >> (4 if i % 64 >= 32 else 0) & 15) + fifth
    scale, minimum = six_bits(block, i // 32, 4), six_bits(block, i // 32, 8)
    return half(block, 0) * f32(scale) * f32(quant) - half(block, 2) * f32(minimum)


def q5_k(block: Block, i: int) -> np.float32:
    return q4_k(block, i, 48, 16 * (int(block[16 + i % 32]) >> i // 32 & 1))


def q6_k(block: Block, i: int) -> np.float32:
    part, plane = i // 128, i % 128 // 32
    low = int(block[64 * part + i % 64]) >> (4 if plane >= 2 else 0) & 15
    high = int(block[128 + 32 * part + i % 32]) >> 2 * plane & 3
    scale = int(block[192 + i // 16].view(np.int8))
    return half(block, 208) * f32(scale) * f32((low | high << 4) - 32)


@pytest.mark.parametrize(
    ("one", "size", "scales"),
    [
        (q2_k, 84, (80, 82)),
        (q3_k, 110, (108,)),
        (q4_k, 144, (0, 2)),
        (q5_k, 176, (0, 2)),
        (q6_k, 210, (208,)),
    ],
)
def test_numbers_one_by_one(
    one: Callable[[Block, int], np.float32], size: int, scales: tuple[int, ...]
) -> None:
    blocks = np.random.default_rng(9).integers(0, 256, (3, size), np.uint8)
    for at in scales:  # numbers, not whatever the bits happen to be
        blocks[:, at : at + 2] = np.array([[0.75], [-2.5e-3], [60]], "<f2").view(np.uint8)
    out = np.empty((3, 256), np.float32)
    K_DECODERS[one.__name__.upper()](blocks, out)
    assert out.tolist() == [[one(block, i) for i in range(256)] for block in blocks]

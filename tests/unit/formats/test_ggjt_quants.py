"""The layouts of ggjt v1 and v2 against the loops of ggml.c, one number at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kwaainet.formats.ggjt_quants import GGJT_DECODERS
from kwaainet.formats.quants import STORAGE_TYPES, dequantize

f32 = np.float32


def number(block: bytes, at: int, form: str) -> np.float32:
    return f32(np.frombuffer(block, form, 1, at)[0])


def pair(block: bytes, at: int, i: int) -> int:
    return block[at + i // 2] >> (4 if i % 2 else 0) & 15


def apart(block: bytes, at: int, i: int) -> int:
    return block[at + i % 16] >> (4 if i >= 16 else 0) & 15


def fifth(block: bytes, at: int, i: int) -> int:
    return (int.from_bytes(block[at : at + 4], "little") >> i & 1) << 4


LOOPS: dict[str, Callable[[bytes, int], np.float32]] = {
    "GGJT1_Q4_0": lambda b, i: f32(pair(b, 4, i) - 8) * number(b, 0, "<f4"),
    "GGJT1_Q4_1": lambda b, i: f32(pair(b, 8, i)) * number(b, 0, "<f4") + number(b, 4, "<f4"),
    "GGJT1_Q4_2": lambda b, i: f32(pair(b, 2, i) - 8) * number(b, 0, "<f2"),
    "GGJT1_Q4_3": lambda b, i: f32(pair(b, 4, i)) * number(b, 0, "<f2") + number(b, 2, "<f2"),
    "GGJT1_Q5_0": lambda b, i: f32((pair(b, 6, i) | fifth(b, 2, i)) - 16) * number(b, 0, "<f2"),
    "GGJT1_Q5_1": lambda b, i: (
        f32(pair(b, 8, i) | fifth(b, 4, i)) * number(b, 0, "<f2") + number(b, 2, "<f2")
    ),
    "GGJT2_Q4_0": lambda b, i: f32(apart(b, 4, i) - 8) * number(b, 0, "<f4"),
    "GGJT2_Q4_1": lambda b, i: f32(apart(b, 8, i)) * number(b, 0, "<f4") + number(b, 4, "<f4"),
    "GGJT2_Q8_0": lambda b, i: f32(np.int8(b[4 + i] - 256 * (b[4 + i] > 127))) * number(b, 0, "<f4"),
}


@pytest.mark.parametrize("dtype", GGJT_DECODERS)
def test_numbers_one_by_one(dtype: str) -> None:
    form = STORAGE_TYPES[dtype]
    raw = np.random.default_rng(4).integers(0, 256, (7, form.size), np.uint8)
    scales = np.array([[0.75, -3.0]], "<f4" if form.size in (20, 36) or dtype[-3:] == "4_1" else "<f2")
    head = scales.view(np.uint8)[:, : form.size - {"Q8_0": 32}.get(dtype[-4:], form.block // 2)]
    raw[:, : head.shape[1]] = head
    if "5" in dtype:
        raw[:, 2 if dtype.endswith("0") else 4 :][:, :4] = np.arange(28, dtype=np.uint8).reshape(7, 4) * 9
    got = dequantize(dtype, raw.tobytes(), 7 * form.block)
    assert got.tolist() == [float(LOOPS[dtype](bytes(block), i)) for block in raw for i in range(form.block)]

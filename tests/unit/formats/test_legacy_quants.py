"""Blocks of 32 written out by hand: which bits are which number's."""

from __future__ import annotations

import numpy as np

from kwaainet.formats.legacy_quants import DECODERS, fifth_bits, nibbles
from kwaainet.ports import Floats

D, M = np.float16(0.5).tobytes(), np.float16(-3).tobytes()
LOW_AND_HIGH = bytes(i | (15 - i) << 4 for i in range(16))  # numbers 0 … 15, then 15 … 0
UP_AND_DOWN = np.array([*range(16), *range(15, -1, -1)])
EVERY_THIRD = sum(1 << i for i in range(0, 32, 3)).to_bytes(4, "little")
SIXTEEN = np.where(np.arange(32) % 3 == 0, 16, 0)


def decode(dtype: str, block: bytes) -> Floats:
    out = np.empty((1, 32), np.float32)
    DECODERS[dtype](np.frombuffer(block, np.uint8)[None], out)
    return out[0]


def test_which_bits_are_which_numbers() -> None:
    assert nibbles(np.frombuffer(LOW_AND_HIGH, np.uint8)[None])[0].tolist() == UP_AND_DOWN.tolist()
    assert fifth_bits(np.frombuffer(EVERY_THIRD, np.uint8)[None])[0].tolist() == SIXTEEN.tolist()


def test_every_type_by_hand() -> None:
    five = UP_AND_DOWN + SIXTEEN
    assert decode("Q4_0", D + LOW_AND_HIGH).tolist() == ((UP_AND_DOWN - 8) * 0.5).tolist()
    assert decode("Q4_1", D + M + LOW_AND_HIGH).tolist() == (UP_AND_DOWN * 0.5 - 3).tolist()
    assert decode("Q5_0", D + EVERY_THIRD + LOW_AND_HIGH).tolist() == ((five - 16) * 0.5).tolist()
    assert decode("Q5_1", D + M + EVERY_THIRD + LOW_AND_HIGH).tolist() == (five * 0.5 - 3).tolist()
    signed = np.arange(-16, 16, dtype=np.int8)
    assert decode("Q8_0", D + signed.tobytes()).tolist() == (signed * 0.5).tolist()

"""Bytes that no peer should send, made from those that peers do: seeded, so that each can be made again.

Rule of the file: it makes inputs and says which one broke something; what may happen is the targets' matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import Random

from kwaainet.errors import KwaaiNetError

MAX_INPUT = 1 << 16  # bytes
_NUMBERS = [
    b"\x00",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xff",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\xff\xff\xff\xff\x0f",  # varints of 32 and 64 bits, and one that never ends
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80" * 11,
    b"\xc1",  # what msgpack has no meaning for
    b"\xdf\xff\xff\xff\xff",  # a map, an array and bytes of 4 billion
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\r\n",
    b"\n\n",
    b"%00",
    b"\xed\xa0\x80",  # half a surrogate
]

Feed = Callable[[bytes, Random], None]


class Mutator:
    """Golden inputs, changed in one to six places, cut, repeated, or put together."""

    def __init__(self, golden: Sequence[bytes], seed: int) -> None:
        self._golden, self._seed = list(golden), seed

    def make(self, number: int) -> tuple[bytes, Random]:
        """The input of that number, and what else should be random about it."""
        random = Random(self._seed * 1_000_003 + number)
        data = bytearray(random.choice(self._golden))
        for _ in range(random.choice((0, 1, 1, 1, 2, 3, 6))):
            _WAYS[random.randrange(len(_WAYS))](data, random, self._golden)
        return bytes(data[:MAX_INPUT]), random


def _spot(data: bytearray, random: Random) -> int:
    return random.randrange(len(data) + 1)


def _flip(data: bytearray, random: Random, golden: Sequence[bytes]) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _set(data: bytearray, random: Random, golden: Sequence[bytes]) -> None:
    if data:
        data[random.randrange(len(data))] = random.randrange(256)


def _number(data: bytearray, random: Random, golden: Sequence[bytes]) -> None:
    at, number = _spot(data, random), random.choice(_NUMBERS)
    data[at : at + random.choice((0, len(number)))] = number


def _cut(data: bytearray, random: Random, golden: Sequence[bytes]) -> None:
    del data[_spot(data, random) :]


def _drop(data: bytearray, random: Random, golden: Sequence[bytes]) -> None:
    at = _spot(data, random)
    del data[at : at + random.randrange(1, 9)]


def _repeat(data: bytearray, random: Random, golden: Sequence[bytes]) -> None:
    at = _spot(data, random)
    data[at:at] = data[at : at + random.randrange(1, 33)] * random.choice((1, 1, 2, 40))


def _insert(data: bytearray, random: Random, golden: Sequence[bytes]) -> None:
    at = _spot(data, random)
    data[at:at] = random.randbytes(random.randrange(1, 17))


def _splice(data: bytearray, random: Random, golden: Sequence[bytes]) -> None:
    other = random.choice(golden)
    data[_spot(data, random) :] = other[random.randrange(len(other) + 1) :]


def _append(data: bytearray, random: Random, golden: Sequence[bytes]) -> None:
    data += random.choice(golden)


_WAYS = (_flip, _flip, _set, _number, _number, _cut, _drop, _repeat, _insert, _splice, _append)


def pieces(data: bytes, random: Random) -> list[bytes]:
    """As they may come from a socket: whole, or in a few pieces."""
    if not data or random.random() < 0.5:
        return [data]
    at = random.randrange(len(data))
    return [data[:at], data[at : at + 1], data[at + 1 :]]


def fuzz(name: str, golden: Sequence[bytes], feed: Feed, count: int, seed: int = 1) -> int:
    """Feed ``count`` inputs; only our own errors may come out. Returns how many were taken without one.

    ``AssertionError`` names the number of the input and its bytes: ``Mutator.make`` makes it again.
    """
    mutator, taken, told = Mutator(golden, seed), 0, time.monotonic()
    for number in range(count):
        data, random = mutator.make(number)
        try:
            feed(data, random)
            taken += 1
        except KwaaiNetError:
            pass
        except Exception as error:
            words = f"{name}: input {number} of seed {seed}, {data[:200].hex()}: {error!r}"
            raise AssertionError(words) from error
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(f"{name}: {number + 1} of {count}", flush=True)
    assert taken * 20 >= count, f"{name}: only {taken} of {count} were taken; the golden ones are not golden"
    return taken

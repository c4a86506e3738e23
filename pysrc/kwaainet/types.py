"""The few values every layer speaks of: peers, block ranges, server states.

Follows libp2p's peer-id spec (base58btc of a multihash) and Petals' ``data_structures.py``.
Rule of the file: immutable values only, no behaviour beyond parsing and printing themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from .errors import InputError

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_INDEX = {character: value for value, character in enumerate(_ALPHABET)}
MAX_PEER_ID_BYTES = 64  # an identity multihash holds a key of at most 42 bytes; sha256 needs 34


@lru_cache(maxsize=4096)  # the same few peers are spelt again and again
def encode_base58(data: bytes) -> str:
    """Bitcoin's base58, the spelling of peer ids."""
    number = int.from_bytes(data, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))


def decode_base58(text: str) -> bytes:
    """Inverse of ``encode_base58``; ``InputError`` names the first foreign character."""
    number = 0
    for character in text:
        digit = _INDEX.get(character)
        if digit is None:
            raise InputError(f"{text[:80]!r} is not base58: {character!r} is not in its alphabet")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


@dataclass(frozen=True, slots=True, order=True)
class PeerId:
    """A libp2p peer id: the multihash bytes; ``str()`` gives the base58 form."""

    data: bytes

    def __post_init__(self) -> None:
        if not 2 <= len(self.data) <= MAX_PEER_ID_BYTES or len(self.data) != self.data[1] + 2:
            raise InputError(f"{self.data[:80].hex()} ({len(self.data)} bytes) is not a peer id")

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """From base58 (``12D3Koo…``, ``Qm…``); ``InputError`` if it is not one."""
        if len(text) > 2 * MAX_PEER_ID_BYTES:
            raise InputError(f"{text[:80]!r}… is too long for a peer id ({len(text)} characters)")
        return cls(decode_base58(text))

    def __str__(self) -> str:
        return encode_base58(self.data)

    def __repr__(self) -> str:
        return f"PeerId({self})"


@dataclass(frozen=True, slots=True, order=True)
class BlockRange:
    """Blocks ``start`` (included) to ``end`` (excluded) of a model, Petals' span."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise InputError(f"{self.start}:{self.end} is not a range of blocks; give START:END")

    @classmethod
    def parse(cls, text: str) -> BlockRange:
        """From ``START:END`` as the command line spells it."""
        start, colon, end = text.partition(":")
        if not (colon and start.isascii() and start.isdigit() and end.isascii() and end.isdigit()):
            raise InputError(f"{text!r} is not a range of blocks; give START:END, such as 0:15")
        return cls(int(start), int(end))

    def __len__(self) -> int:
        return self.end - self.start

    def __contains__(self, block: int) -> bool:
        return self.start <= block < self.end

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"


class ServerState(IntEnum):
    """Petals' ``ServerState`` as announced in the DHT."""

    OFFLINE = 0
    JOINING = 1
    ONLINE = 2


@dataclass(frozen=True, slots=True)
class SpanShape:
    """What an engine must know of a span beside its graph: sizes are counts of elements.

    ``switches`` name, after a block's number and a dot, tensors of one dimension that each run gets as
    inputs: zeros in their place skip the block. ``half``: caches and switches are float16, not float32.
    ``window`` and ``softcap`` are those of its attention, 0 where there is none: kernels of their own.
    """

    blocks: int
    hidden_size: int
    kv_heads: int
    head_dim: int
    max_positions: int
    switches: tuple[str, ...] = ("input_norm", "post_norm")
    half: bool = False
    window: int = 0
    softcap: float = 0.0

    def switches_of(self, block: int) -> list[str]:
        """The full names of a block's switches."""
        return [f"{block}.{name}" for name in self.switches]


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of progress: ``done`` of ``total`` (bytes or steps; total 0 = unknown).

    Of the bytes done, ``cached`` were here before and cost no transfer.
    """

    stage: str
    done: int = 0
    total: int = 0
    cached: int = 0

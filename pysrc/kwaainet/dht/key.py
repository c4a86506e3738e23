"""The 160-bit ids of nodes and keys.

Follows ``hivemind/dht/routing.py``. A node's id is random and has nothing to do with its peer id.
Rule of the file: an id is an int that knows its bytes.
"""

from __future__ import annotations

import hashlib
from typing import Self

from ..errors import ProtocolError, UsageError
from ..wire import msgpack

ID_SIZE = 20  # bytes, those of SHA-1
ID_BITS = 8 * ID_SIZE


class DHTID(int):
    """A point of the key space; distances are XOR."""

    def __new__(cls, value: int) -> Self:
        if not 0 <= value < 1 << ID_BITS:
            raise UsageError(f"{value} is not a DHTID: it needs {ID_BITS} bits, none negative")
        return super().__new__(cls, value)

    @classmethod
    def of(cls, key: object) -> Self:
        """The id under which ``key`` is stored: SHA-1 of its msgpack (of bytes: of themselves)."""
        source = key if isinstance(key, bytes) else msgpack.dumps(key)
        return cls.decode(hashlib.sha1(source, usedforsecurity=False).digest())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """From 20 bytes; ``ProtocolError`` for any other number."""
        if len(data) != ID_SIZE:
            raise ProtocolError(
                f"{bytes(data[:40]).hex()!r} is not a DHTID: {len(data)} bytes, not {ID_SIZE}"
            )
        return cls(int.from_bytes(data, "big"))

    def encode(self) -> bytes:
        return self.to_bytes(ID_SIZE, "big")

    def distance(self, other: int) -> int:
        return self ^ other

    def __repr__(self) -> str:
        return f"DHTID({self.encode().hex()})"

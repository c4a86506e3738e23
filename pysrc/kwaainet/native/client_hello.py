"""The first message of a TLS connection, as far as it says for whom and for what it is.

Follows RFC 8446 (section 4.1.2), RFC 6066 (server name) and RFC 7301 (protocols). Rule of the file: it
reads what a stranger sent, so that every length is held against what is there; what is not understood is
``None``, and TLS proper says the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_HELLO = 1 << 14  # bytes: one record of TLS
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _PROTOCOLS = 0, 16


@dataclass(frozen=True, slots=True)
class ClientHello:
    """The name that was asked for, empty if none was, and the protocols offered."""

    name: str
    protocols: tuple[str, ...]


class _Cut(Exception):
    """The message ends before what it promises."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, size: int) -> bytes:
        if size > len(self.data):
            raise _Cut
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def block(self, size: int) -> bytes:
        """What a length of ``size`` bytes stands before."""
        return self.take(self.number(size))


def hello_of(data: bytes) -> ClientHello | None:
    """From the first bytes of a connection."""
    try:
        record = _Reader(data)
        if record.number(1) != _HANDSHAKE:
            return None
        record.take(2)
        message = _Reader(record.block(2))
        if message.number(1) != _CLIENT_HELLO:
            return None
        hello = _Reader(message.block(3))
        hello.take(2 + 32)  # version, random
        for size in (1, 2, 1):  # session, ciphers, compression
            hello.block(size)
        return _extensions(_Reader(hello.block(2)))
    except (_Cut, UnicodeDecodeError):
        return None


def _extensions(reader: _Reader) -> ClientHello:
    name, protocols = "", []
    while reader.data:
        kind, value = reader.number(2), _Reader(reader.block(2))
        if kind == _SERVER_NAME:
            names = _Reader(value.block(2))
            if names.number(1) == 0:
                name = names.block(2).decode("ascii")
        elif kind == _PROTOCOLS:
            offered = _Reader(value.block(2))
            while offered.data:
                protocols.append(offered.block(1).decode("ascii"))
    return ClientHello(name, tuple(protocols))

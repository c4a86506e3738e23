"""Unsigned LEB128 varints, as protobuf and the multiformats spec write them.

Rule of the file: numbers below 2**64 in at most ten bytes, nothing else.
"""

from __future__ import annotations

from typing import TypeAlias

from ..errors import ProtocolError, UsageError

BytesLike: TypeAlias = bytes | bytearray | memoryview

MAX_BYTES = 10  # ceil(64 / 7)
_LIMIT = 1 << 64
_ONE_BYTE = tuple(bytes([number]) for number in range(0x80))


def encode(number: int) -> bytes:
    """``number`` in as few bytes as possible; ``UsageError`` outside 0 … 2**64 - 1."""
    if 0 <= number < 0x80:
        return _ONE_BYTE[number]
    if 0 <= number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    if not 0 <= number < _LIMIT:
        raise UsageError(f"{number} is no varint; it must lie in 0 … 2**64 - 1")
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def decode(data: BytesLike, offset: int = 0) -> tuple[int, int]:
    """(the number at ``offset``, the offset after it); ``ProtocolError`` if cut short or too long."""
    if offset < len(data) and (byte := data[offset]) < 0x80:
        return byte, offset + 1  # nearly every varint of a message; most of the others have two bytes
    if offset + 1 < len(data) and (more := data[offset + 1]) < 0x80:
        return byte & 0x7F | more << 7, offset + 2
    found = peek(data, offset)
    if found is None:
        raise ProtocolError(f"varint at byte {offset} is cut short: the data ends at byte {len(data)}")
    return found


def peek(data: BytesLike, offset: int = 0) -> tuple[int, int] | None:
    """Like ``decode``, but ``None`` when more bytes are needed: for data that is still arriving."""
    if offset < len(data) and (byte := data[offset]) < 0x80:
        return byte, offset + 1  # the length of nearly every message
    number = shift = 0
    end = min(len(data), offset + MAX_BYTES)
    for position in range(offset, end):
        byte = data[position]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >= _LIMIT:
                raise ProtocolError(f"varint at byte {offset} is {number}, which needs more than 64 bits")
            return number, position + 1
        shift += 7
    if end - offset == MAX_BYTES:
        raise ProtocolError(f"varint at byte {offset} goes on past {MAX_BYTES} bytes")
    return None

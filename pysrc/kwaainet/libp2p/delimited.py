"""Messages with a varint length in front, the framing of multistream, identify, kad and circuit.

Rule of the file: nothing larger than the stated cap is ever held.
"""

from __future__ import annotations

from ..errors import LimitExceeded
from ..wire import varint


def delimit(message: bytes) -> bytes:
    """The message behind its length."""
    return varint.encode(len(message)) + message


class DelimitedReader:
    """Cuts a byte stream into messages of at most ``max_size`` bytes."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._buffer = bytearray()

    def receive_data(self, data: bytes | memoryview) -> None:
        """Add bytes from the stream."""
        self._buffer += data

    def next_message(self) -> bytes | None:
        """The next whole message, or ``None`` until more bytes come.

        Raises ``LimitExceeded`` for a length over the cap, ``ProtocolError`` for what is no length.
        """
        found = varint.peek(self._buffer)
        if found is None:
            return None
        size, prefix = found
        if size > self._max_size:
            raise LimitExceeded(f"a message of {size} bytes is over the {self._max_size} allowed")
        if len(self._buffer) < prefix + size:
            return None
        message = bytes(self._buffer[prefix : prefix + size])
        del self._buffer[: prefix + size]
        return message

    def take_rest(self) -> bytes:
        """All bytes not yet given out; they belong to whatever follows the messages."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

"""multistream-select 1.0: agreeing on a protocol, as two machines.

Follows the libp2p connections spec. Protocol ids are any printable text: Hivemind's have no
leading slash. The proposer is optimistic: it sends the header and its first choice at once and
its data may follow right behind, which saves a round trip. Rule of the file: a line is at most
1,024 bytes and a side asks at most ``MAX_PROPOSALS`` times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import HandshakeError, LimitExceeded, ProtocolError, UsageError
from .delimited import DelimitedReader, delimit

HEADER = "/multistream/1.0.0"
NOT_AVAILABLE = "na"
MAX_LINE = 1024
MAX_PROPOSALS = 64


def _line(text: str) -> bytes:
    return delimit(text.encode() + b"\n")


class _Lines:
    """What both sides share: lines in, bytes out, the protocol once agreed."""

    def __init__(self) -> None:
        self._reader = DelimitedReader(MAX_LINE)
        self._out = bytearray()
        self._header_seen = False
        self.protocol: str | None = None

    def receive_data(self, data: bytes | memoryview) -> None:
        """Feed bytes; stops reading lines once a protocol is agreed (see ``take_rest``).

        Raises ``ProtocolError``, ``LimitExceeded``, or ``HandshakeError`` when nothing is agreed.
        """
        self._reader.receive_data(data)
        while self.protocol is None and (message := self._reader.next_message()) is not None:
            text = self._text(message)
            if self._header_seen:
                self._handle_line(text)
            elif text != HEADER:
                raise ProtocolError(f"the peer opened with {text[:80]!r} instead of {HEADER}")
            else:
                self._header_seen = True
                self._handle_header()

    def data_to_send(self) -> bytes:
        """Bytes to send now (may be empty)."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def take_rest(self) -> bytes:
        """Bytes received behind the agreement: the protocol's own."""
        return self._reader.take_rest()

    @staticmethod
    def _text(message: bytes) -> str:
        if not message.endswith(b"\n"):
            raise ProtocolError(f"negotiation line {message[:80]!r} does not end in a newline")
        try:
            return message[:-1].decode()
        except UnicodeDecodeError as error:
            raise ProtocolError(f"negotiation line {message[:80]!r} is not UTF-8") from error

    def _handle_header(self) -> None: ...

    def _handle_line(self, text: str) -> None: ...


class Proposer(_Lines):
    """The side that wants a protocol; ``protocols`` in order of preference."""

    def __init__(self, protocols: Sequence[str]) -> None:
        super().__init__()
        if not protocols or any(len(name.encode()) >= MAX_LINE for name in protocols):
            raise UsageError(f"propose one or more protocol ids under {MAX_LINE} bytes, not {protocols!r}")
        self._wanted = list(protocols)
        self._out += _line(HEADER) + _line(self._wanted[0])

    def _handle_line(self, text: str) -> None:
        if text == self._wanted[0]:
            self.protocol = text
        elif text != NOT_AVAILABLE:
            raise ProtocolError(f"the peer answered {text[:80]!r} when asked for {self._wanted[0]!r}")
        else:
            refused = self._wanted.pop(0)
            if not self._wanted:
                raise HandshakeError(f"the peer does not support {refused!r}")
            self._out += _line(self._wanted[0])


class Chooser(_Lines):
    """The side that is asked; ``supports`` tells which protocol ids it takes."""

    def __init__(self, supports: Callable[[str], bool]) -> None:
        super().__init__()
        self._supports = supports
        self._asked = 0

    def _handle_header(self) -> None:
        self._out += _line(HEADER)

    def _handle_line(self, text: str) -> None:
        if self._supports(text):
            self.protocol = text
            self._out += _line(text)
            return
        self._asked += 1
        if self._asked > MAX_PROPOSALS:
            raise LimitExceeded(f"the peer asked for more than {MAX_PROPOSALS} unknown protocols")
        self._out += _line(NOT_AVAILABLE)

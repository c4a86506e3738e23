"""Hivemind's two RPC framings over a libp2p stream, as machines without IO.

Follows go-libp2p-daemon's persistent connections (unary) and hivemind's ``P2P`` (streams). Give a
machine what arrives with ``receive_data`` and ``receive_eof``, ask it ``next_event`` until ``None``,
and send what ``data_to_send`` returns. A ``ProtocolError`` leaves it unusable: reset the stream.

Rule of the file: one call per machine. The end of the other side's bytes is an event, since what it
means depends on the side: callers must keep their half open until the reply is there, because for
a callee the end of the caller's bytes is cancellation; a callee closes when it is done.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import LimitExceeded, ProtocolError, UsageError
from . import varint
from .messages import CallUnaryRequest, CallUnaryResponse, RPCError, UnaryRequest, UnaryResponse
from .varint import BytesLike

MAX_UNARY_SIZE = 4 << 20  # bytes of an envelope, p2pd's persistentConnMaxMsgSize
MAX_FRAME_SIZE = (64 << 20) + (64 << 10)  # 2048 positions of hidden size 8192 in float32, and an envelope
MAX_ERROR_SIZE = 64 << 10  # bytes of an error frame
MAX_ERROR_TEXT = 4096  # bytes of an error text that we send: somebody reads it
CALL_ID_SIZE = 16

_FRAME_HEADER = struct.Struct(">BQ")
_MESSAGE, _ERROR = 0, 1


@dataclass(frozen=True, slots=True)
class Message:
    """A request or reply: the bytes of its protobuf message, or of the whole reply of a unary call."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The other side has no more messages. A caller's own input may go on."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The callee reports an error of its own; nothing follows."""

    text: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The other side went away before the call was over; nothing follows."""


Event: TypeAlias = Message | Ended | Failed | Cancelled


class _Machine:
    """Input buffer, event queue and output of one call."""

    def __init__(self) -> None:
        self._input = bytearray()
        self._events: deque[Event] = deque()
        self._output: list[bytes] = []
        self._over = False  # the other side's input is complete: it finished, failed or left

    def next_event(self) -> Event | None:
        """The oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    def data_to_send(self) -> bytes:
        """What to send now; each byte is returned once."""
        output = self._output[0] if len(self._output) == 1 else b"".join(self._output)
        self._output.clear()
        return output

    def _refuse_more(self) -> None:
        if self._input:
            raise ProtocolError(f"{len(self._input)} bytes follow the last one of the call")

    def _take(self, start: int, size: int) -> bytes:
        """``size`` bytes of input from ``start``; drops them and all before."""
        taken = bytes(memoryview(self._input)[start : start + size])
        del self._input[: start + size]
        return taken


# --- unary: one length-prefixed envelope each way ---------------------------------------------


class _UnaryMachine(_Machine):
    def _receive(self, data: BytesLike) -> bytes | None:
        """The other side's envelope once it is whole."""
        self._input += data
        if self._over:
            self._refuse_more()
            return None
        header = varint.peek(self._input)
        if header is None:
            return None
        size, start = header
        if size > MAX_UNARY_SIZE:
            raise LimitExceeded(f"unary envelope of {size} bytes exceeds {MAX_UNARY_SIZE}")
        if len(self._input) < start + size:
            return None
        envelope = self._take(start, size)
        self._over = True
        self._refuse_more()
        return envelope

    def _send(self, envelope: UnaryRequest | UnaryResponse) -> None:
        encoded = envelope.encode()
        if len(encoded) > MAX_UNARY_SIZE:
            raise UsageError(f"envelope of {len(encoded)} bytes exceeds {MAX_UNARY_SIZE}; use a stream RPC")
        self._output += (varint.encode(len(encoded)), encoded)


class UnaryCaller(_UnaryMachine):
    """Calls once. Events: ``Message`` (the reply), ``Failed``, or ``Cancelled``.

    ``call_id`` is 16 random bytes, ``peer`` the callee's peer id, ``protocol`` the RPC's protocol id.
    """

    def __init__(self, call_id: bytes, peer: bytes, protocol: str, request: bytes) -> None:
        super().__init__()
        if len(call_id) != CALL_ID_SIZE:
            raise UsageError(f"call id has {len(call_id)} bytes; it must have {CALL_ID_SIZE}")
        self._call_id = call_id
        self._send(UnaryRequest(call_id, CallUnaryRequest(peer, protocol, request)))

    def receive_data(self, data: BytesLike) -> None:
        """Take bytes of the reply, in pieces of any size."""
        envelope = self._receive(data)
        if envelope is None:
            return
        message = UnaryResponse.decode(envelope)
        if message.call_id != self._call_id:
            raise ProtocolError(f"reply has call id {message.call_id[:32].hex()}, not {self._call_id.hex()}")
        self._events.append(_reply_event(message.reply))

    def receive_eof(self) -> None:
        """The callee's bytes are over."""
        if not self._over:
            self._over = True
            self._events.append(Cancelled())


def _reply_event(reply: CallUnaryResponse | None) -> Event:
    if reply is not None and reply.error is None and reply.response is not None:
        return Message(reply.response)
    if reply is not None and reply.response is None and reply.error is not None:
        return Failed(reply.error.decode("utf-8", "replace"))
    raise ProtocolError("unary reply holds not exactly one of a response and an error")


class UnaryAnswerer(_UnaryMachine):
    """Answers one call. Events: ``Message`` (the request); ``Cancelled`` if the caller left first."""

    def __init__(self) -> None:
        super().__init__()
        self._call_id: bytes | None = None
        self._done = False

    def receive_data(self, data: BytesLike) -> None:
        """Take bytes of the request, in pieces of any size."""
        envelope = self._receive(data)
        if envelope is None:
            return
        message = UnaryRequest.decode(envelope)
        if len(message.call_id) != CALL_ID_SIZE:
            raise ProtocolError(f"call id has {len(message.call_id)} bytes, not {CALL_ID_SIZE}")
        if message.call is None:
            raise ProtocolError("unary envelope holds no call")
        self._call_id = message.call_id
        self._events.append(Message(message.call.data))

    def receive_eof(self) -> None:
        """The caller's bytes are over, which cancels the call unless it is answered."""
        if not self._done:
            self._over = self._done = True
            self._events.append(Cancelled())

    def respond(self, response: bytes) -> None:
        """Answer with a message's bytes; the host then closes the stream."""
        self._answer(CallUnaryResponse(response=response))

    def fail(self, text: str) -> None:
        """Answer with an error's text; the host then closes the stream."""
        self._answer(CallUnaryResponse(error=_clip(text)))

    def _answer(self, reply: CallUnaryResponse) -> None:
        if self._call_id is None or self._done:
            raise UsageError("a unary call is answered once, after its request and before it is cancelled")
        self._send(UnaryResponse(self._call_id, reply))
        self._done = True


# --- streams: frames of marker, length and message --------------------------------------------


class _StreamMachine(_Machine):
    def _receive(self, data: BytesLike) -> Iterator[tuple[int, bytes]]:
        """(marker, payload) of every frame that is whole now."""
        self._input += data
        while self._over or len(self._input) >= _FRAME_HEADER.size:
            if self._over:
                self._refuse_more()
                return
            marker, size = _FRAME_HEADER.unpack_from(self._input)
            if marker not in (_MESSAGE, _ERROR):
                raise ProtocolError(f"frame marker is {marker:#04x}; only 0x00 and 0x01 exist")
            limit = MAX_ERROR_SIZE if marker == _ERROR else MAX_FRAME_SIZE
            if size > limit:
                raise LimitExceeded(f"frame of {size} bytes exceeds {limit}")
            if len(self._input) < _FRAME_HEADER.size + size:
                return
            yield marker, self._take(_FRAME_HEADER.size, size)

    def _send(self, marker: int, payload: bytes) -> None:
        if len(payload) > MAX_FRAME_SIZE:
            raise UsageError(f"message of {len(payload)} bytes exceeds {MAX_FRAME_SIZE}; send it in parts")
        self._output += (_FRAME_HEADER.pack(marker, len(payload)), payload)


class StreamCaller(_StreamMachine):
    """Calls a stream RPC. Events: ``Message`` per reply, then ``Ended``, ``Failed`` or ``Cancelled``.

    A callee that dies between frames looks like one that is done: its bytes end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ended = False

    def send(self, message: bytes) -> None:
        """Send one request message; it may be empty."""
        if self._ended:
            raise UsageError("no message can be sent after end()")
        self._send(_MESSAGE, message)

    def end(self) -> None:
        """Say that no more requests come. The host must not half-close the stream."""
        if not self._ended:
            self._ended = True
            self._send(_ERROR, b"")

    def receive_data(self, data: BytesLike) -> None:
        """Take bytes of the callee's frames, in pieces of any size."""
        for marker, payload in self._receive(data):
            if marker == _MESSAGE:
                self._events.append(Message(payload))
            else:
                self._over = True
                self._events.append(Failed(RPCError.decode(payload).message))

    def receive_eof(self) -> None:
        """The callee's bytes are over: it is done, unless a frame was cut short."""
        if not self._over:
            self._over = True
            self._events.append(Cancelled() if self._input else Ended())


class StreamAnswerer(_StreamMachine):
    """Serves a stream RPC. Events: ``Message`` per request, ``Ended`` after the last, or ``Cancelled``."""

    def __init__(self) -> None:
        super().__init__()
        self._done = False

    def send(self, message: bytes) -> None:
        """Send one reply message."""
        self._require_open()
        self._send(_MESSAGE, message)

    def fail(self, text: str) -> None:
        """Report an error; the host then closes the stream."""
        self._require_open()
        self._send(_ERROR, RPCError(_clip(text).decode()).encode())
        self._done = True

    def finish(self) -> None:
        """Be done: the host closes the stream, and the caller's leaving is no cancellation."""
        self._done = True

    def receive_data(self, data: BytesLike) -> None:
        """Take bytes of the caller's frames, in pieces of any size."""
        for marker, payload in self._receive(data):
            if marker == _MESSAGE:
                self._events.append(Message(payload))
            else:
                self._over = True
                self._events.append(Ended())

    def receive_eof(self) -> None:
        """The caller's bytes are over, which cancels the call unless this side is done."""
        self._over = True
        if not self._done:
            self._done = True
            self._events.append(Cancelled())

    def _require_open(self) -> None:
        if self._done:
            raise UsageError("the call is over: finished, failed or cancelled")


def _clip(text: str) -> bytes:
    """UTF-8 of ``text``, cut where the peer's limit on error texts would refuse it."""
    return text.encode("utf-8", "replace")[:MAX_ERROR_TEXT].decode("utf-8", "ignore").encode()

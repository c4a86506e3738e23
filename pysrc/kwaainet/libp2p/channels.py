"""Streams over WebRTC data channels instead of yamux: one channel a stream, messages framed in protobuf.

Follows the libp2p webrtc spec (``webrtc/README.md``, "Multiplexing"; ``webrtc-direct.md`` for the prologue).
``ChannelSession`` has the interface of ``yamux.Session``, so that all above it is the same. Rule of the file:
what a channel carries is bounded; there is no flow control to lean on, so a reader that is too slow
loses its stream.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from ..errors import CapacityError, ProtocolError, StreamReset
from ..identity.keys import PublicKey
from ..ports import Crypto
from ..types import PeerId
from ..wire import protobuf
from . import noise
from .connection import Connected, Connection
from .delimited import DelimitedReader, delimit
from .yamux import Event, StreamAborted, StreamData, StreamEnded, StreamSent, StreamStarted

PROLOGUE = b"libp2p-webrtc-noise:"
MAX_MESSAGE = 16384  # bytes of one message of a channel, framing included
MAX_DATA = MAX_MESSAGE - 16
MAX_CHANNELS = 1024
MAX_UNREAD = 4 << 20  # bytes of one connection that nobody has taken yet
FRAME = struct.Struct(">BHI")  # between this machine and its wire: kind, channel, size
OPEN, DATA, CLOSE = 0, 1, 2  # kinds


class Flag(IntEnum):
    """What a message says beside its data."""

    FIN = 0
    STOP_SENDING = 1
    RESET = 2
    FIN_ACK = 3


@dataclass(frozen=True, slots=True)
class Message(protobuf.Message):
    """One message of a channel."""

    flag: int | None = protobuf.optional(1, protobuf.UINT)
    message: bytes | None = protobuf.optional(2, protobuf.BYTES)


def fingerprint_hash(digest: bytes) -> bytes:
    """A certificate's SHA-256 as the multihash that ``/certhash`` and the prologue have."""
    return b"\x12\x20" + digest


def prologue(client: bytes, server: bytes) -> bytes:
    """Of the noise handshake, from both certificates' SHA-256."""
    return PROLOGUE + fingerprint_hash(client) + fingerprint_hash(server)


@dataclass(slots=True)
class _Channel:
    reader: DelimitedReader
    queued: int = 0
    unread: int = 0
    end_asked: bool = False
    ended: bool = False  # by the peer
    acknowledged: bool = False  # our end


class ChannelSession:
    """All channels of one connection; the side that took the connection opens odd ones (RFC 8832)."""

    def __init__(self) -> None:
        self._channels: dict[int, _Channel] = {}
        self._next_id = 1
        self._out: deque[tuple[int, int, bytes, int]] = deque()  # the last: bytes of the stream's own
        self._events: deque[Event] = deque()
        self._unread = 0

    # --- commands, as yamux.Session's -------------------------------------------------------------

    def open_stream(self) -> int:
        """A new stream's id. Raises ``CapacityError``."""
        if len(self._channels) >= MAX_CHANNELS or self._next_id > 65533:
            raise CapacityError(
                f"{len(self._channels)} channels are open on one connection; close some first"
            )
        stream_id, self._next_id = self._next_id, self._next_id + 2
        self._channels[stream_id] = _Channel(DelimitedReader(MAX_MESSAGE))
        self._out.append((OPEN, stream_id, b"", 0))
        return stream_id

    def send(self, stream_id: int, data: bytes | memoryview) -> None:
        """Queue bytes. Raises ``StreamReset``."""
        channel = self._get(stream_id)
        if channel.end_asked:
            raise StreamReset(f"stream {stream_id} was ended on this side; nothing can follow")
        for begin in range(0, len(data), MAX_DATA):
            piece = bytes(data[begin : begin + MAX_DATA])
            channel.queued += len(piece)
            self._put(stream_id, Message(message=piece))

    def end(self, stream_id: int) -> None:
        """Say that nothing more comes. Raises ``StreamReset``."""
        channel = self._get(stream_id)
        if not channel.end_asked:
            channel.end_asked = True
            self._put(stream_id, Message(flag=Flag.FIN))

    def reset(self, stream_id: int) -> None:
        """Abandon a stream; unknown ids are ignored."""
        if stream_id in self._channels:
            self._put(stream_id, Message(flag=Flag.RESET))
            self._close(stream_id)

    def grant(self, stream_id: int, size: int) -> None:
        """The consumer took ``size`` bytes."""
        channel = self._channels.get(stream_id)
        if channel is not None:
            channel.unread -= size
            self._unread -= size

    def unsent(self, stream_id: int) -> int:
        """Bytes queued on a stream."""
        channel = self._channels.get(stream_id)
        return channel.queued if channel is not None else 0

    def ping(self, value: int) -> None:
        """ICE's consent checks are the sign of life here."""

    def go_away(self, code: int = 0) -> None:
        """A closing connection is seen at once."""

    @property
    def stream_count(self) -> int:
        """Streams open now."""
        return len(self._channels)

    def next_event(self) -> Event | None:
        """What happened, in order; ``None`` when there is no more."""
        return self._events.popleft() if self._events else None

    # --- the channels' side -----------------------------------------------------------------------

    def receive_data(self, data: bytes | memoryview) -> None:
        """Frames of the wire: what came in, whole. Raises ``ProtocolError`` or ``LimitExceeded``."""
        view = memoryview(data)
        while len(view):
            kind, stream_id, size = FRAME.unpack_from(view)
            body, view = bytes(view[FRAME.size : FRAME.size + size]), view[FRAME.size + size :]
            if kind == OPEN:
                self._accept(stream_id)
            elif kind == CLOSE:
                self._lost(stream_id)
            elif stream_id in self._channels:
                self._receive(stream_id, self._channels[stream_id], body)

    @property
    def has_output(self) -> bool:
        """Whether ``data_to_send`` may have something."""
        return bool(self._out)

    def data_to_send(self, max_size: int) -> bytes:
        """Frames for the wire; empty when there is nothing."""
        parts: list[bytes] = []
        room = max_size
        while self._out and room > 0:
            kind, stream_id, body, own = self._out.popleft()
            parts += (FRAME.pack(kind, stream_id, len(body)), body)
            room -= FRAME.size + len(body)
            channel = self._channels.get(stream_id)
            if channel is not None and own:
                channel.queued -= own
                self._events.append(StreamSent(stream_id, own))
        return b"".join(parts)

    def _accept(self, stream_id: int) -> None:
        if stream_id % 2 or stream_id in self._channels:
            raise ProtocolError(f"the peer opened channel {stream_id}, which it may not")
        if len(self._channels) >= MAX_CHANNELS:
            self._out.append((CLOSE, stream_id, b"", 0))
            return
        self._channels[stream_id] = _Channel(DelimitedReader(MAX_MESSAGE))
        self._events.append(StreamStarted(stream_id))

    def _receive(self, stream_id: int, channel: _Channel, body: bytes) -> None:
        channel.reader.receive_data(body)
        while (data := channel.reader.next_message()) is not None:
            message = Message.decode(data)
            if message.message and not channel.ended:
                channel.unread += len(message.message)
                self._unread += len(message.message)
                if self._unread > MAX_UNREAD:
                    self.reset(stream_id)
                    self._events.append(StreamAborted(stream_id, f"over {MAX_UNREAD} bytes wait to be read"))
                    return
                self._events.append(StreamData(stream_id, message.message))
            if message.flag is not None:
                self._flagged(stream_id, channel, message.flag)
            if stream_id not in self._channels:
                return

    def _flagged(self, stream_id: int, channel: _Channel, flag: int) -> None:
        if flag == Flag.FIN:
            self._put(stream_id, Message(flag=Flag.FIN_ACK))
            if not channel.ended:
                channel.ended = True
                self._events.append(StreamEnded(stream_id))
        elif flag == Flag.FIN_ACK:
            channel.acknowledged = True
        elif flag == Flag.RESET:
            self._close(stream_id)
            self._events.append(StreamAborted(stream_id, "the peer reset the stream"))
        if channel.ended and channel.acknowledged and stream_id in self._channels:
            self._close(stream_id)

    def _lost(self, stream_id: int) -> None:
        channel = self._channels.get(stream_id)
        if channel is not None:
            self._close(stream_id)
            if not channel.ended:
                self._events.append(StreamAborted(stream_id, "the peer closed its channel"))

    def _close(self, stream_id: int) -> None:
        channel = self._channels.pop(stream_id)
        self._unread -= channel.unread
        self._out.append((CLOSE, stream_id, b"", 0))

    def _put(self, stream_id: int, message: Message) -> None:
        self._out.append((DATA, stream_id, delimit(message.encode()), len(message.message or b"")))

    def _get(self, stream_id: int) -> _Channel:
        channel = self._channels.get(stream_id)
        if channel is None:
            raise StreamReset(f"stream {stream_id} is closed")
        return channel


class DirectConnection(Connection):
    """A connection that is secured and multiplexed by WebRTC, to a peer who has proved who it is."""

    def __init__(
        self, crypto: Crypto, credentials: noise.Credentials, *, supports: Callable[[str], bool], now: float,
        peer: PeerId, public_key: PublicKey,
    ) -> None:  # fmt: skip
        super().__init__(
            crypto=crypto,
            credentials=credentials,
            ephemeral=bytes(31) + b"\x01",  # of no use: nothing is encrypted here once more
            initiator=False,
            supports=supports,
            now=now,
        )
        self._mux = ChannelSession()  # type: ignore[assignment]
        self._open = True
        self._events.append(Connected(peer, public_key))

    def receive_data(self, data: bytes | memoryview) -> None:
        """Frames of the wire."""
        self._mux.receive_data(data)  # type: ignore[arg-type]

    def data_to_send(self) -> bytes:
        """Frames for the wire."""
        return self._mux.data_to_send(4 * MAX_MESSAGE)

    def handle_deadline(self, now: float) -> None:
        """Streams whose protocol is not agreed in time end; life is ICE's to watch."""
        self._heard = True
        super().handle_deadline(now)


class ChannelHandshake:
    """Noise over the channel 0: the side that took the connection speaks first.

    Feed what the channel brings, send what ``data_to_send`` gives; ``result`` is set in the end.
    """

    def __init__(
        self, crypto: Crypto, credentials: noise.Credentials, ephemeral: bytes, context: bytes
    ) -> None:
        self._noise = noise.Handshake(crypto, credentials, ephemeral, initiator=True, prologue=context)
        self._reader = DelimitedReader(MAX_MESSAGE)

    @property
    def result(self) -> noise.Secured | None:
        """Who is at the other end, once that is known."""
        return self._noise.result

    def receive_data(self, data: bytes) -> None:
        """One message of the channel. Raises ``KwaaiNetError``."""
        self._reader.receive_data(data)
        while (found := self._reader.next_message()) is not None:
            message = Message.decode(found)
            if message.flag == Flag.RESET:
                raise ProtocolError("the peer gave the handshake up")
            if message.message:
                self._noise.receive_data(message.message)

    def data_to_send(self) -> bytes:
        """One message for the channel, or nothing."""
        data = self._noise.data_to_send()
        return delimit(Message(message=data).encode()) if data else b""

"""yamux: many streams with their own flow control over one byte stream.

Follows the hashicorp yamux spec as libp2p uses it. Every stream is granted a fixed window of 1 MiB, renewed
only when the consumer says (``grant``) that it took the bytes: a consumer that stops reading stops its peer,
and nothing else. Outgoing data waits in the stream until ``data_to_send`` asks for it, round robin, one frame
a turn: a congested transport holds data back where it is counted. Rule of the file: what a peer can make us
hold is capped, see the constants.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass

from ..errors import CapacityError, LimitExceeded, ProtocolError, StreamReset

WINDOW = 1 << 20  # bytes granted per stream; browsers get slower above, long fat links below
INITIAL_WINDOW = 256 << 10  # what the spec gives a stream before any window update
MAX_STREAMS = 4096  # open at once per connection; further ones are reset at birth
MAX_UNREAD = 64 << 20  # bytes received and not yet consumed per connection; then a stream is reset
MAX_CONTROL = 256 << 10  # bytes of pings and window updates waiting for a peer that does not read
SMALL = 4096  # bytes up to which what is queued is put together: a byte in an object takes 50
MAX_SEND_WINDOW = 1 << 32  # a peer that grants more than a length field can say is broken

HEADER = struct.Struct(">BBHII")
_DATA, _WINDOW_UPDATE, _PING, _GO_AWAY = range(4)
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """The peer opened a stream."""

    stream_id: int


@dataclass(slots=True)  # not frozen, which takes thrice as long to make: there is one for every frame
class StreamData:
    """Bytes arrived; ``grant`` them back once consumed. ``data`` may be a view: copy to keep."""

    stream_id: int
    data: bytes | memoryview


@dataclass(slots=True)  # not frozen, which takes thrice as long to make: there is one for every frame
class StreamSent:
    """``size`` bytes of the stream left for the peer: there is room for as many more."""

    stream_id: int
    size: int


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer will send no more on this stream; our half stays open."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamAborted:
    """The stream is gone in both directions, by the peer or by one of our caps."""

    stream_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to ``ping(value)``."""

    value: int


@dataclass(frozen=True, slots=True)
class GoneAway:
    """The peer takes no more streams and will close; code 0 is a normal end."""

    code: int


Event = StreamStarted | StreamData | StreamSent | StreamEnded | StreamAborted | Pong | GoneAway


class _Stream:
    __slots__ = (
        "consumed", "end_asked", "end_sent", "queue", "queued",
        "receive_window", "remote_ended", "send_window", "stream_id", "unread",
    )  # fmt: skip

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        self.queue: deque[bytes | memoryview] = deque()
        self.queued = 0
        self.send_window = INITIAL_WINDOW
        self.receive_window = WINDOW
        self.unread = 0
        self.consumed = 0  # since the last window update
        self.end_asked = False
        self.end_sent = False
        self.remote_ended = False

    @property
    def ready(self) -> bool:
        """Whether there is a frame to send now."""
        if self.queued:
            return self.send_window > 0
        return self.end_asked and not self.end_sent


class Session:
    """One side of a yamux connection; ``client`` is the side that dialled."""

    def __init__(self, *, client: bool) -> None:
        self._next_id = 1 if client else 2
        self._remote_parity = 0 if client else 1
        self._streams: dict[int, _Stream] = {}
        self._ready: dict[int, None] = {}  # ordered: the round-robin turn
        self._control = bytearray()
        self._events: deque[Event] = deque()
        self._header = b""  # a header cut off by the end of the data
        self._body: _Stream | None = None
        self._body_left = 0
        self._body_ends = False
        self._unread = 0
        self._gone_away = False

    # --- commands ---------------------------------------------------------------------------------

    def open_stream(self) -> int:
        """A new stream's id. Raises ``CapacityError``; ``StreamReset`` if the peer has gone away."""
        if self._gone_away:
            raise StreamReset("the peer is closing its connection and takes no more streams")
        if len(self._streams) >= MAX_STREAMS or self._next_id > 0xFFFF_FFFF:
            raise CapacityError(f"{len(self._streams)} streams are open on one connection; close some first")
        stream = self._streams[self._next_id] = _Stream(self._next_id)
        self._next_id += 2
        self._put(_WINDOW_UPDATE, _SYN, stream.stream_id, WINDOW - INITIAL_WINDOW)
        return stream.stream_id

    def send(self, stream_id: int, data: bytes | memoryview) -> None:
        """Queue bytes; they leave as the peer's window allows. Raises ``StreamReset``."""
        stream = self._get(stream_id)
        if stream.end_asked:
            raise StreamReset(f"stream {stream_id} was ended on this side; nothing can follow")
        if len(data):
            _append(stream.queue, data)
            stream.queued += len(data)
            if stream.send_window > 0:
                self._ready[stream_id] = None

    def end(self, stream_id: int) -> None:
        """Say, behind what is queued, that nothing more comes. Raises ``StreamReset``."""
        stream = self._get(stream_id)
        stream.end_asked = True
        if stream.ready:
            self._ready[stream_id] = None

    def reset(self, stream_id: int) -> None:
        """Abandon a stream in both directions; unknown ids are ignored."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._forget(stream)
            self._put(_WINDOW_UPDATE, _RST, stream_id, 0)

    def grant(self, stream_id: int, size: int) -> None:
        """The consumer took ``size`` bytes: let the peer send as many more (in batches)."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.unread -= size
        self._unread -= size
        stream.consumed += size
        if stream.consumed >= WINDOW // 2 and not stream.remote_ended:
            self._put(_WINDOW_UPDATE, 0, stream_id, stream.consumed)
            stream.receive_window += stream.consumed
            stream.consumed = 0

    def unsent(self, stream_id: int) -> int:
        """Bytes still queued on a stream (0 if it is gone)."""
        stream = self._streams.get(stream_id)
        return stream.queued if stream is not None else 0

    def ping(self, value: int) -> None:
        """Ask the peer for a sign of life."""
        self._put(_PING, _SYN, 0, value)

    def go_away(self, code: int = 0) -> None:
        """Say that this side is closing (0 normal, 1 protocol error, 2 internal error)."""
        self._put(_GO_AWAY, 0, 0, code)

    @property
    def stream_count(self) -> int:
        """Streams open now."""
        return len(self._streams)

    def next_event(self) -> Event | None:
        """What happened, in order; ``None`` when there is no more."""
        return self._events.popleft() if self._events else None

    # --- incoming ---------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Feed decrypted bytes. Raises ``ProtocolError`` or ``LimitExceeded``: close then."""
        if len(self._control) > MAX_CONTROL:
            raise LimitExceeded("the peer asks for answers and does not read them")
        if self._header:
            data = self._header + data
            self._header = b""
        view = memoryview(data)
        offset, size = 0, len(data)
        while offset < size:
            if self._body_left:
                taken = min(self._body_left, size - offset)
                self._receive_body(view[offset : offset + taken])
                offset += taken
            elif size - offset < HEADER.size:
                self._header = bytes(view[offset:])
                return
            else:
                version, kind, flags, stream_id, length = HEADER.unpack_from(view, offset)
                offset += HEADER.size
                if version or kind or flags:
                    self._receive_header(version, kind, flags, stream_id, length)
                else:  # nothing but data, as nearly all frames of a busy stream
                    self._begin_body(self._streams.get(stream_id), stream_id, length)

    def _receive_header(self, version: int, kind: int, flags: int, stream_id: int, length: int) -> None:
        if version:
            raise ProtocolError(f"yamux version {version} is not 0")
        if kind == _PING:
            self._receive_ping(flags, length)
        elif kind == _GO_AWAY:
            self._gone_away = True
            self._events.append(GoneAway(length))
        elif kind in (_DATA, _WINDOW_UPDATE):
            if flags & _SYN:
                self._accept(stream_id)
            stream = self._streams.get(stream_id)
            if kind == _DATA:
                self._begin_body(stream, stream_id, length)
            elif stream is not None and length:
                self._widen(stream, length)
            self._receive_flags(stream, flags)
        else:
            raise ProtocolError(f"yamux frame type {kind} is unknown")

    def _receive_ping(self, flags: int, value: int) -> None:
        if flags & _SYN:
            self._put(_PING, _ACK, 0, value)
        else:
            self._events.append(Pong(value))

    def _accept(self, stream_id: int) -> None:
        if stream_id % 2 != self._remote_parity or not stream_id or stream_id in self._streams:
            raise ProtocolError(f"the peer opened stream {stream_id}, which it may not")
        if len(self._streams) >= MAX_STREAMS:
            self._put(_WINDOW_UPDATE, _RST, stream_id, 0)
            return
        self._streams[stream_id] = _Stream(stream_id)
        self._put(_WINDOW_UPDATE, _ACK, stream_id, WINDOW - INITIAL_WINDOW)
        self._events.append(StreamStarted(stream_id))

    def _widen(self, stream: _Stream, delta: int) -> None:
        stream.send_window += delta
        if stream.send_window > MAX_SEND_WINDOW:
            raise ProtocolError(f"the peer granted a window of {stream.send_window} bytes")
        if stream.ready:
            self._ready[stream.stream_id] = None

    def _begin_body(self, stream: _Stream | None, stream_id: int, length: int) -> None:
        """A frame may not be larger than what was granted; one for a stream that is gone is skipped."""
        window = stream.receive_window if stream is not None else WINDOW
        if length > window:
            raise LimitExceeded(f"{length} bytes on stream {stream_id} are more than its window of {window}")
        if stream is not None and stream.remote_ended and length:
            raise ProtocolError(f"the peer sent data on stream {stream_id} after ending it")
        if stream is not None:
            stream.receive_window -= length
        self._body, self._body_left, self._body_ends = stream, length, False

    def _receive_body(self, data: memoryview) -> None:
        self._body_left -= len(data)
        stream = self._body
        if stream is None or self._streams.get(stream.stream_id) is not stream:
            return
        stream.unread += len(data)
        self._unread += len(data)
        if self._unread > MAX_UNREAD:
            self.reset(stream.stream_id)
            reason = f"more than {MAX_UNREAD} bytes of this connection are waiting to be read"
            self._events.append(StreamAborted(stream.stream_id, reason))
            return
        self._events.append(StreamData(stream.stream_id, data))
        if self._body_ends and not self._body_left:
            self._remote_end(stream)

    def _receive_flags(self, stream: _Stream | None, flags: int) -> None:
        if stream is None or not flags & (_FIN | _RST):
            return
        if flags & _RST:
            self._forget(stream)
            self._events.append(StreamAborted(stream.stream_id, "the peer reset the stream"))
        elif self._body_left and self._body is stream:
            self._body_ends = True
        else:
            self._remote_end(stream)

    def _remote_end(self, stream: _Stream) -> None:
        if not stream.remote_ended:
            stream.remote_ended = True
            self._events.append(StreamEnded(stream.stream_id))
            if stream.end_sent:
                self._forget(stream)

    # --- outgoing ---------------------------------------------------------------------------------

    @property
    def has_output(self) -> bool:
        """Whether ``data_to_send`` may have something."""
        return bool(self._control or self._ready)

    def data_to_send(self, max_size: int) -> bytes:
        """Up to ``max_size`` (at least 24) bytes of whole frames; empty when nothing can go now."""
        parts: list[bytes | memoryview] = []
        room = max_size
        if self._control:
            size = min(len(self._control), room // HEADER.size * HEADER.size)
            parts.append(bytes(self._control[:size]))
            del self._control[:size]
            room -= size
        while self._ready and room > HEADER.size:
            stream_id = next(iter(self._ready))
            del self._ready[stream_id]
            room -= self._put_frame(self._streams[stream_id], room, parts)
        return b"".join(parts)

    def _put_frame(self, stream: _Stream, room: int, parts: list[bytes | memoryview]) -> int:
        """One frame of the stream, data or its end; returns the bytes used."""
        stream_id = stream.stream_id
        size = min(stream.queued, stream.send_window, room - HEADER.size)
        if size:
            parts.append(HEADER.pack(0, _DATA, 0, stream_id, size))
            _take(stream.queue, size, parts)
            stream.queued -= size
            stream.send_window -= size
            self._tell_sent(stream_id, size)
            if stream.ready:
                self._ready[stream_id] = None
        else:  # its own frame: go-yamux may drop data that shares a frame with FIN
            parts.append(HEADER.pack(0, _WINDOW_UPDATE, _FIN, stream_id, 0))
            stream.end_sent = True
            if stream.remote_ended:
                self._forget(stream)
        return HEADER.size + size

    def _tell_sent(self, stream_id: int, size: int) -> None:
        """Once for frames of a stream that leave one after another."""
        if self._events and type(last := self._events[-1]) is StreamSent and last.stream_id == stream_id:
            last.size += size
        else:
            self._events.append(StreamSent(stream_id, size))

    def _put(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        self._control += HEADER.pack(0, kind, flags, stream_id, length)

    def _get(self, stream_id: int) -> _Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise StreamReset(f"stream {stream_id} is closed")
        return stream

    def _forget(self, stream: _Stream) -> None:
        self._unread -= stream.unread
        del self._streams[stream.stream_id]
        self._ready.pop(stream.stream_id, None)


def _append(queue: deque[bytes | memoryview], data: bytes | memoryview) -> None:
    """Queue without copying, unless many small pieces would take more room than their bytes."""
    if queue and len(queue[-1]) + len(data) <= SMALL:
        queue[-1] = bytes(queue[-1]) + data
    else:
        queue.append(data)


def _take(queue: deque[bytes | memoryview], size: int, parts: list[bytes | memoryview]) -> None:
    """Move exactly ``size`` bytes from the front of the queue to ``parts``, without copying."""
    while size:
        chunk = queue.popleft()
        if len(chunk) > size:
            view = memoryview(chunk)
            queue.appendleft(view[size:])
            chunk = view[:size]
        parts.append(chunk)
        size -= len(chunk)

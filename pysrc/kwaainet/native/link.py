"""Drives one ``libp2p.Connection`` over a transport, and hands its streams out.

Everything runs in callbacks: a byte that is only relayed never wakes a task. Rule of the file: what
is written in one turn of the event loop leaves in one flush, and a paused transport is not asked to
hold more.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import HandshakeError, KwaaiNetError, StreamReset
from ..libp2p import noise
from ..libp2p.admission import Origin
from ..libp2p.connection import Connected, Connection, StreamOpened, StreamRefused
from ..libp2p.multiaddr import Multiaddr
from ..libp2p.yamux import GoneAway, StreamAborted, StreamData, StreamEnded, StreamSent
from ..ports import Crypto
from ..types import PeerId
from .stream import RawStream

logger = logging.getLogger(__name__)

STALL = 60.0  # seconds in which a reader must make room in a full wire, even one that sends and pings


class Wire(Protocol):
    """What carries a connection's bytes: a socket, a WebSocket, a stream of another connection."""

    def write(self, data: bytes) -> None:
        """Send, without waiting; the wire calls ``pause``/``resume`` on its link."""

    def close(self) -> None:
        """Send what is buffered, then close; ``lost`` is called on the link."""


class LinkOwner(Protocol):
    """What a link asks of, and tells, its host."""

    crypto: Crypto
    credentials: noise.Credentials

    def supports(self, protocol: str) -> bool:
        """Whether inbound streams may have this protocol."""

    def link_opened(self, link: Link) -> None:
        """The peer is authenticated, streams may be opened."""

    def link_closed(self, link: Link, reason: str) -> None:
        """The link is gone (also if it never opened)."""

    def stream_opened(self, stream: RawStream) -> None:
        """The peer opened a stream of a protocol we support."""


class Link:
    """One connection to one peer. ``address`` is the peer's, as seen from here."""

    def __init__(
        self,
        owner: LinkOwner,
        wire: Wire,
        address: Multiaddr,
        *,
        initiator: bool,
        expected_peer: PeerId | None = None,
        machine: Connection | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._owner = owner
        self._wire = wire
        self._loop = loop
        self.address = address
        self.initiator = initiator
        self.machine = machine or Connection(
            crypto=owner.crypto,
            credentials=owner.credentials,
            ephemeral=secrets.token_bytes(32),
            initiator=initiator,
            supports=owner.supports,
            now=loop.time(),
            expected_peer=expected_peer,
        )
        self.ready: asyncio.Future[PeerId] = loop.create_future()
        self.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())  # may go unread
        self._peer: PeerId | None = None
        self._streams: dict[int, RawStream] = {}
        self._paused = self._flush_due = self._closed = False
        self._stalled: asyncio.TimerHandle | None = None  # runs while the wire takes nothing
        self.since = loop.time()
        self.origin = Origin()  # as the owner's admission counts it
        self.leaving = False  # the peer said that it will close: open no more streams
        self._timer = loop.call_at(self.machine.next_deadline(), self._tick)
        self.flush_soon()

    @property
    def remote_peer(self) -> PeerId:
        """The authenticated peer; only after ``ready``."""
        if self._peer is None:
            raise HandshakeError(f"the peer at {self.address} has not proved who it is")
        return self._peer

    @property
    def peer(self) -> PeerId | None:
        """The peer, if it has proved who it is."""
        return self._peer

    @property
    def streams(self) -> int:
        """Streams open now, both ways."""
        return len(self._streams)

    @property
    def closed(self) -> bool:
        """Whether the link is gone."""
        return self._closed

    def open_stream(self, protocol: str) -> RawStream:
        """A new stream; write at once, a refusal comes as ``StreamReset``. Raises ``StreamReset``."""
        if self._closed:
            raise StreamReset(f"the connection to {self._peer} is closed")
        stream_id = self.machine.open_stream(protocol)
        stream = self._streams[stream_id] = RawStream(self, stream_id, protocol, inbound=False)
        self.flush_soon()
        return stream

    def close(self, reason: str, code: int = 0) -> None:
        """Say goodbye and close."""
        if not self._closed:
            self.machine.go_away(code)
            self._paused = False
            self._flush()
            self._wire.close()
            self.lost(reason)

    def forget(self, stream_id: int) -> None:
        """A stream is over."""
        self._streams.pop(stream_id, None)

    def flush_soon(self) -> None:
        """Send what is queued at the end of this turn of the loop."""
        if not self._flush_due and self.machine.has_output:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    # --- called by the wire -----------------------------------------------------------------------

    def receive(self, data: bytes | memoryview, *, more: bool = False) -> None:
        """Bytes from the wire; ``data`` is not kept. With ``more`` to come at once, nobody is told yet."""
        if self._closed:
            return
        try:
            self.machine.receive_data(data)
        except KwaaiNetError as error:
            self._fail(error)
            return
        if not more:
            self._dispatch()
            self.flush_soon()

    def pause(self) -> None:
        """The wire holds enough for now."""
        self._paused = True
        if self._stalled is None:
            self._stalled = self._loop.call_later(STALL, self._stall)

    def resume(self) -> None:
        """The wire takes more."""
        self._paused = False
        self._unstall()
        self.flush_soon()

    def lost(self, reason: str) -> None:
        """The wire is gone."""
        self._dispatch()  # what came right before
        if self._closed:
            return
        self._closed = True
        self._timer.cancel()
        self._unstall()
        error = StreamReset(f"the connection to {self._peer or self.address} is gone: {reason}")
        for stream in list(self._streams.values()):
            stream.abort(error)
        if not self.ready.done():
            self.ready.set_exception(error)
        self._owner.link_closed(self, reason)

    # --- inside -----------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flush_due = False
        machine = self.machine
        while machine.has_output and not self._paused and not self._closed:
            data = machine.data_to_send()
            if not data:
                break
            self._wire.write(data)
        self._dispatch()

    def _dispatch(self) -> None:
        next_event = self.machine.next_event
        while not self._closed and (event := next_event()) is not None:
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event)

    def _fail(self, error: KwaaiNetError) -> None:
        logger.info("closing the connection to %s: %s", self._peer or self.address, error)
        if not self.ready.done():
            self.ready.set_exception(error)
        self.close(str(error), code=1)

    def _stall(self) -> None:
        reason = f"in {STALL:g} s it took too little of what waits for it"
        logger.info("closing the connection to %s: %s", self._peer or self.address, reason)
        self._wire.close()  # without a goodbye, which would wait, too
        self.lost(reason)

    def _unstall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _tick(self) -> None:
        try:
            self.machine.handle_deadline(self._loop.time())
        except KwaaiNetError as error:
            self._fail(error)
            return
        self._timer = self._loop.call_at(self.machine.next_deadline(), self._tick)
        self._dispatch()
        self.flush_soon()

    def _connected(self, event: Connected) -> None:
        self._peer = event.peer
        if not self.ready.done():
            self.ready.set_result(event.peer)
        self._owner.link_opened(self)

    def _gone_away(self, event: GoneAway) -> None:
        self.leaving = True

    def _stream_opened(self, event: StreamOpened) -> None:
        if not event.inbound:
            if (stream := self._streams.get(event.stream_id)) is not None:
                stream.accept()
            return
        stream = RawStream(self, event.stream_id, event.protocol, inbound=True)
        self._streams[event.stream_id] = stream
        self._owner.stream_opened(stream)

    def _stream_refused(self, event: StreamRefused) -> None:
        if (stream := self._streams.get(event.stream_id)) is not None:
            stream.abort(HandshakeError(f"{self._peer} takes no {stream.protocol} stream: {event.reason}"))

    def _stream_data(self, event: StreamData) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            stream.receive(event.data)
        else:
            self.machine.grant(event.stream_id, len(event.data))

    def _stream_sent(self, event: StreamSent) -> None:
        if (stream := self._streams.get(event.stream_id)) is not None:
            stream.sent()

    def _stream_ended(self, event: StreamEnded) -> None:
        if (stream := self._streams.get(event.stream_id)) is not None:
            stream.end()

    def _stream_aborted(self, event: StreamAborted) -> None:
        if (stream := self._streams.get(event.stream_id)) is not None:
            stream.abort(StreamReset(f"{self._peer} ended the {stream.protocol} stream: {event.reason}"))


_HANDLERS: dict[type, Callable[[Link, Any], None]] = {
    StreamData: Link._stream_data,
    StreamSent: Link._stream_sent,
    StreamOpened: Link._stream_opened,
    StreamEnded: Link._stream_ended,
    StreamAborted: Link._stream_aborted,
    StreamRefused: Link._stream_refused,
    Connected: Link._connected,
    GoneAway: Link._gone_away,
}

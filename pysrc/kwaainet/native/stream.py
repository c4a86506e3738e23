"""One stream of a connection, as asyncio code reads and writes it.

Rule of the file: bytes are granted back to the peer when somebody took them, never earlier; nothing
is buffered that the flow control does not bound.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ..errors import KwaaiNetError, ProtocolError, StreamReset
from ..libp2p.admission import Origin
from ..libp2p.connection import Connection
from ..libp2p.delimited import DelimitedReader, delimit
from ..libp2p.multiaddr import Multiaddr
from ..types import PeerId

HIGH_WATER = 256 << 10  # bytes queued at which ``drain`` waits and a circuit's inner connection pauses
LINGER = 5.0  # seconds a closed stream waits for the peer's end
_COPY_BELOW = 4096  # smaller views are copied: they would keep a whole 64 KiB message alive


class Carrier(Protocol):
    """What a stream needs of the connection it runs on."""

    machine: Connection
    address: Multiaddr
    origin: Origin

    @property
    def remote_peer(self) -> PeerId:
        """The authenticated peer."""

    def flush_soon(self) -> None:
        """Send what is queued, once per turn of the event loop."""

    def forget(self, stream_id: int) -> None:
        """The stream is gone."""


class Sink(Protocol):
    """Takes a stream's events directly, without a task."""

    def stream_data(self, data: bytes | memoryview) -> None:
        """Bytes arrived; ``grant`` them once they are taken."""

    def stream_sent(self) -> None:
        """Some of what was written has left."""

    def stream_ended(self) -> None:
        """The peer will send no more."""

    def stream_gone(self, error: KwaaiNetError) -> None:
        """The stream was reset or its connection was lost."""


class RawStream:
    """A stream whose protocol is agreed (inbound) or being agreed (outbound, see ``opened``)."""

    def __init__(self, carrier: Carrier, stream_id: int, protocol: str, *, inbound: bool) -> None:
        self._carrier = carrier
        self._machine = carrier.machine
        self.stream_id = stream_id
        self.protocol = protocol
        self.inbound = inbound
        self.on_gone: Callable[[], object] | None = None  # the peer ended, reset or vanished
        self._accepted = inbound
        self._chunks: deque[bytes | memoryview] = deque()
        self._unsplit: DelimitedReader | None = None
        self._ended = False  # by the peer
        self._finished = False  # by us
        self._error: KwaaiNetError | None = None
        self._sink: Sink | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._closing: asyncio.TimerHandle | None = None

    @property
    def remote_peer(self) -> PeerId:
        """The authenticated peer at the other end."""
        return self._carrier.remote_peer

    @property
    def address(self) -> Multiaddr:
        """Where the peer is seen from here."""
        return self._carrier.address

    @property
    def origin(self) -> Origin:
        """The peer and from where, as limits count it."""
        return self._carrier.origin

    @property
    def unsent(self) -> int:
        """Bytes written and not yet given to the transport."""
        return self._machine.unsent(self.stream_id)

    # --- reading ----------------------------------------------------------------------------------

    async def opened(self) -> None:
        """Wait until the peer agreed to the protocol. Raises ``StreamReset`` if it did not."""
        while not self._accepted:
            await self._change()

    async def read(self) -> bytes | memoryview:
        """What has arrived, at least one byte; empty once the peer has ended.

        Raises ``StreamReset`` if the stream is gone, but not before all that had arrived was read.
        """
        while not self._chunks:
            if self._ended:
                return b""
            await self._change()
        data = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self.grant(len(data))
        return data

    async def read_message(self, max_size: int) -> bytes | None:
        """The next length-prefixed message; ``None`` if the peer ended between two.

        Raises ``StreamReset``, ``LimitExceeded``, ``ProtocolError`` (ended within a message).
        """
        reader = self._unsplit = self._unsplit or DelimitedReader(max_size)
        while (message := reader.next_message()) is None:
            data = await self.read()
            if not data:
                if reader.take_rest():
                    raise ProtocolError(f"the peer ended a {self.protocol} stream within a message")
                return None
            reader.receive_data(data)
        return message

    def grant(self, size: int) -> None:
        """``size`` received bytes were taken: the peer may send as many more."""
        self._machine.grant(self.stream_id, size)
        self._carrier.flush_soon()

    # --- writing ----------------------------------------------------------------------------------

    def write(self, data: bytes | memoryview) -> None:
        """Queue bytes. Raises ``StreamReset`` if the stream is gone or finished."""
        self._check()
        self._machine.send(self.stream_id, data)
        self._carrier.flush_soon()

    def write_message(self, message: bytes) -> None:
        """Queue a length-prefixed message."""
        self.write(delimit(message))

    async def drain(self) -> None:
        """Wait while more than ``HIGH_WATER`` bytes are queued. Raises ``StreamReset``."""
        while self.unsent > HIGH_WATER:
            await self._change()
            self._check()

    def finish(self) -> None:
        """Half-close: nothing more will be written. Ignored on a stream that is gone."""
        if self._error is None and not self._finished:
            try:
                self._machine.end(self.stream_id)
            except StreamReset:
                return  # the peer ended and reset it in one go: that event comes next
            self._finished = True
            self._carrier.flush_soon()
            self._forget_if_done()

    def close(self) -> None:
        """Finish, drop what still comes, and reset if the peer does not finish within ``LINGER``."""
        self.finish()
        self._chunks.clear()
        if self._error is None and not self._ended and self._closing is None:
            self._closing = asyncio.get_running_loop().call_later(LINGER, self.reset)

    def reset(self) -> None:
        """Abandon the stream at once."""
        if self._error is None:
            self._machine.reset(self.stream_id)
            self._chunks.clear()
            self._carrier.flush_soon()
            self._fail(StreamReset("the stream was reset on this side"))

    # --- direct delivery --------------------------------------------------------------------------

    def attach(self, sink: Sink) -> None:
        """From now on events go to the sink; what is buffered goes first."""
        self._sink = sink
        rest = self._unsplit.take_rest() if self._unsplit is not None else b""
        if rest:  # was granted when it was read: take that back by not granting it again
            self._chunks.appendleft(rest)
            self._machine.grant(self.stream_id, -len(rest))
        while self._chunks:
            sink.stream_data(self._chunks.popleft())
        if self._error is not None:
            sink.stream_gone(self._error)
        elif self._ended:
            sink.stream_ended()

    # --- called by the connection -----------------------------------------------------------------

    def accept(self) -> None:
        """The peer agreed to the protocol."""
        self._accepted = True
        self._wake()

    def receive(self, data: bytes | memoryview) -> None:
        """Bytes from the peer."""
        kept = bytes(data) if len(data) < _COPY_BELOW else data
        if self._sink is not None:
            self._sink.stream_data(kept)
        elif self._closing is not None:
            self.grant(len(data))  # nobody will read this
        else:
            if self._chunks and len(self._chunks[-1]) + len(kept) <= _COPY_BELOW:
                self._chunks[-1] = bytes(self._chunks[-1]) + kept  # a byte in an object takes 50
            else:
                self._chunks.append(kept)
            self._wake()

    def sent(self) -> None:
        """Queued bytes left."""
        if self._sink is not None:
            self._sink.stream_sent()
        elif self._waiters:
            self._wake()
        if self._finished:
            self._forget_if_done()

    def end(self) -> None:
        """The peer half-closed."""
        self._ended = True
        if self._sink is not None:
            self._sink.stream_ended()
        self._gone()
        self._forget_if_done()

    def abort(self, error: KwaaiNetError) -> None:
        """The stream or its connection is gone."""
        self._fail(error)

    # --- inside -----------------------------------------------------------------------------------

    def _fail(self, error: KwaaiNetError) -> None:
        if self._error is not None:
            return
        self._error = error
        self._forget()
        if self._sink is not None:
            self._sink.stream_gone(error)
        self._gone()

    def _gone(self) -> None:
        self._wake()
        if self.on_gone is not None:
            callback, self.on_gone = self.on_gone, None
            callback()

    def _forget_if_done(self) -> None:
        if self._ended and self._finished and not self.unsent:
            self._forget()

    def _forget(self) -> None:
        self._carrier.forget(self.stream_id)
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None

    async def _change(self) -> None:
        """Wait for news; not for its end, as what came right before it is to be taken first."""
        self._check()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _check(self) -> None:
        if self._error is not None:  # raised anew: one that is kept would keep the data of those it went by
            raise type(self._error)(*self._error.args)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

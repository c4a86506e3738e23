"""One secured, multiplexed connection: multistream, noise, multistream, yamux, stacked.

Follows the libp2p connections spec. Feed what the transport received, send what ``data_to_send``
gives, read events. It runs equally over TCP, a WebSocket or a stream of another connection (a
circuit). Rule of the file: any error raised by ``receive_data`` or ``handle_deadline`` is the end
of the connection; a stream whose negotiation fails ends alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import HandshakeError, KwaaiNetError, StreamReset, UsageError
from ..identity.keys import PublicKey, peer_id
from ..ports import Crypto
from ..types import PeerId
from . import noise, yamux
from .multistream import Chooser, Proposer
from .yamux import GoneAway, Pong, StreamAborted, StreamData, StreamEnded, StreamSent, StreamStarted

MUXER = "/yamux/1.0.0"
HANDSHAKE_TIMEOUT = 15.0  # seconds from the first byte to an open muxer
KEEPALIVE = (
    25.0  # seconds between looks: who was silent since the last one is pinged, or else counts as gone;
)
# the longest silence is just below two of them, less than the minute after which proxies end a connection
MAX_NEGOTIATING = 256  # streams whose protocol is not agreed yet
_BATCH = 4  # noise messages per data_to_send: large writes are cheap, larger ones hog memory


@dataclass(frozen=True, slots=True)
class Connected:
    """The peer proved who it is and streams may be opened."""

    peer: PeerId
    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """A stream's protocol is agreed; ``inbound`` if the peer opened it."""

    stream_id: int
    protocol: str
    inbound: bool


@dataclass(frozen=True, slots=True)
class StreamRefused:
    """The peer does not speak the protocol of a stream that we opened; the stream is gone."""

    stream_id: int
    reason: str


Event: TypeAlias = (
    Connected
    | StreamOpened
    | StreamRefused
    | StreamData
    | StreamSent
    | StreamEnded
    | StreamAborted
    | Pong
    | GoneAway
)


class Connection:
    """One end of a connection.

    ``ephemeral`` is 32 fresh random bytes, ``supports`` says which protocols inbound streams may
    have, ``expected_peer`` is who was dialled (if known).
    """

    def __init__(
        self,
        *,
        crypto: Crypto,
        credentials: noise.Credentials,
        ephemeral: bytes,
        initiator: bool,
        supports: Callable[[str], bool],
        now: float,
        expected_peer: PeerId | None = None,
    ) -> None:
        self._initiator = initiator
        self._supports = supports
        self._expected_peer = expected_peer
        self._negotiation = self._negotiate(noise.PROTOCOL)
        self._handshake: noise.Handshake | None = noise.Handshake(
            crypto, credentials, ephemeral, initiator=initiator
        )
        self._secured: noise.Secured | None = None
        self._peer: PeerId | None = None
        self._mux = yamux.Session(client=initiator)
        self._receive: Callable[[bytes | memoryview], None] = self._receive_security
        self._out: list[bytes] = []
        self._open = False
        self._events: deque[Event] = deque()
        self._negotiating: dict[int, Proposer | Chooser] = {}
        self._fed: dict[int, int] = {}  # bytes a negotiating stream has received
        self._stale: set[int] = set()  # negotiating, or refused, since before the last deadline
        self._refused: set[int] = set()  # inbound streams that were told no; the peer should reset them
        self._deadline = now + HANDSHAKE_TIMEOUT
        self._heard = self._asked = False
        if initiator:  # optimistic: the first noise message rides behind the proposal
            assert self._handshake is not None
            self._out += [self._negotiation.data_to_send(), self._handshake.data_to_send()]

    def _negotiate(self, protocol: str) -> Proposer | Chooser:
        return Proposer([protocol]) if self._initiator else Chooser(lambda name: name == protocol)

    # --- the transport's side ---------------------------------------------------------------------

    def receive_data(self, data: bytes | memoryview) -> None:
        """Feed bytes from the transport; ``data`` is not kept. Raises ``KwaaiNetError``: close then."""
        self._heard = True
        self._receive(data)

    @property
    def has_output(self) -> bool:
        """Whether ``data_to_send`` may have something."""
        return bool(self._out) or self._mux.has_output

    def data_to_send(self) -> bytes:
        """The next batch of bytes for the transport, empty when there is nothing to send now.

        Ask only while the transport takes more: what is not asked for keeps its senders waiting.
        """
        parts = self._out
        self._out = []
        if self._open:
            assert self._secured is not None
            encrypt, mux = self._secured.sender.encrypt, self._mux
            for _ in range(_BATCH):
                if not mux.has_output or not (plaintext := mux.data_to_send(noise.MAX_PLAINTEXT)):
                    break
                parts += encrypt(plaintext)
        return b"".join(parts)

    def next_deadline(self) -> float:
        """When ``handle_deadline`` wants to be called."""
        return self._deadline

    def handle_deadline(self, now: float) -> None:
        """Keep the connection alive. Raises ``HandshakeError`` or ``StreamReset`` if it is not."""
        if now < self._deadline:
            return
        if not self._open:
            raise HandshakeError(f"the peer did not finish its handshake within {HANDSHAKE_TIMEOUT:.0f} s")
        if not self._heard and self._asked:
            raise StreamReset(f"the peer was silent for {2 * KEEPALIVE:.0f} s and did not answer a ping")
        self._asked = not self._heard
        if self._asked:
            self._mux.ping(0)
        self._heard = False
        for stream_id in self._stale & self._negotiating.keys():
            self._refuse(stream_id, "its protocol was not agreed in time")
        for stream_id in self._stale & self._refused:
            self._refused.discard(stream_id)
            self._mux.reset(stream_id)
        self._stale = self._refused | self._negotiating.keys()
        self._deadline = now + KEEPALIVE

    # --- the streams' side ------------------------------------------------------------------------

    def next_event(self) -> Event | None:
        """What happened, in order; ``None`` when there is no more."""
        while not self._events:
            event = self._mux.next_event()
            if event is None:
                return None
            if isinstance(event, StreamStarted):
                self._start_inbound(event.stream_id)
            elif self._negotiating and self._is_negotiating(event):
                self._advance(event)
            elif self._refused and getattr(event, "stream_id", None) in self._refused:
                self._ignore(event)
            else:
                return event
        return self._events.popleft()

    def open_stream(self, protocol: str) -> int:
        """Start a stream; data may be sent at once. ``StreamOpened`` or ``StreamRefused`` follows.

        Raises ``CapacityError``, ``StreamReset`` (the peer is closing), ``UsageError`` (too early).
        """
        if not self._open:
            raise UsageError("no stream can be opened before the connection is")
        proposer = Proposer([protocol])
        stream_id = self._mux.open_stream()
        self._negotiating[stream_id] = proposer
        self._fed[stream_id] = 0
        self._mux.send(stream_id, proposer.data_to_send())
        return stream_id

    def send(self, stream_id: int, data: bytes | memoryview) -> None:
        """Queue data on a stream (not copied: do not change it). Raises ``StreamReset``."""
        self._mux.send(stream_id, data)

    def end(self, stream_id: int) -> None:
        """Half-close: nothing more will be sent. Raises ``StreamReset``."""
        self._mux.end(stream_id)

    def reset(self, stream_id: int) -> None:
        """Abandon a stream at once, in both directions."""
        self._negotiating.pop(stream_id, None)
        self._fed.pop(stream_id, None)
        self._mux.reset(stream_id)

    def grant(self, stream_id: int, size: int) -> None:
        """The consumer took ``size`` bytes of a stream's data."""
        self._mux.grant(stream_id, size)

    def unsent(self, stream_id: int) -> int:
        """Bytes queued on a stream and not yet given to the transport."""
        return self._mux.unsent(stream_id)

    def go_away(self, code: int = 0) -> None:
        """Tell the peer that the connection is about to close."""
        if self._open:
            self._mux.go_away(code)

    # --- becoming open ----------------------------------------------------------------------------

    def _receive_security(self, data: bytes | memoryview) -> None:
        self._negotiation.receive_data(data)
        self._out.append(self._negotiation.data_to_send())
        if self._negotiation.protocol is not None:
            self._receive = self._receive_handshake
            self._receive_handshake(self._negotiation.take_rest())

    def _receive_handshake(self, data: bytes | memoryview) -> None:
        handshake = self._handshake
        assert handshake is not None
        handshake.receive_data(data)
        self._out.append(handshake.data_to_send())
        self._secured = handshake.result
        if self._secured is None:
            return
        self._handshake = None  # and with it the keys that nobody needs any more
        self._peer = peer_id(self._secured.public_key)
        if self._expected_peer not in (None, self._peer):
            raise HandshakeError(f"dialled {self._expected_peer}, but {self._peer} answered")
        self._negotiation = self._negotiate(MUXER)
        self._send_negotiation()
        self._receive = self._receive_muxer
        self._receive_muxer(handshake.take_rest())

    def _receive_muxer(self, data: bytes | memoryview) -> None:
        assert self._secured is not None
        assert self._peer is not None
        for plaintext in self._secured.receiver.receive_data(data):
            if self._open:
                self._mux.receive_data(plaintext)
                continue
            self._negotiation.receive_data(plaintext)
            self._send_negotiation()
            if self._negotiation.protocol is not None:
                self._open = True
                self._receive = self._receive_frames
                self._events.append(Connected(self._peer, self._secured.public_key))
                self._mux.receive_data(self._negotiation.take_rest())

    def _receive_frames(self, data: bytes | memoryview) -> None:
        assert self._secured is not None
        receive = self._mux.receive_data
        for plaintext in self._secured.receiver.receive_data(data):
            receive(plaintext)

    def _send_negotiation(self) -> None:
        assert self._secured is not None
        line = self._negotiation.data_to_send()
        if line:
            self._out += self._secured.sender.encrypt(line)

    # --- agreeing on a stream's protocol ----------------------------------------------------------

    def _start_inbound(self, stream_id: int) -> None:
        if len(self._negotiating) >= MAX_NEGOTIATING:
            self._mux.reset(stream_id)
            return
        self._negotiating[stream_id] = Chooser(self._supports)
        self._fed[stream_id] = 0

    def _is_negotiating(self, event: Event) -> bool:
        return getattr(event, "stream_id", None) in self._negotiating

    def _advance(self, event: Event) -> None:
        if isinstance(event, StreamData):
            try:
                self._negotiate_stream(event.stream_id, event.data)
            except KwaaiNetError as error:
                self._refuse(event.stream_id, str(error))
        elif isinstance(event, StreamAborted):
            del self._fed[event.stream_id]
            if isinstance(self._negotiating.pop(event.stream_id), Proposer):
                self._events.append(event)
        elif isinstance(event, StreamEnded):
            self._refuse(event.stream_id, "the peer ended the stream before agreeing on its protocol")

    def _negotiate_stream(self, stream_id: int, data: bytes | memoryview) -> None:
        negotiation = self._negotiating[stream_id]
        self._fed[stream_id] += len(data)
        try:
            negotiation.receive_data(data)
        finally:  # a refusal is sent even where the peer's optimism made nonsense of what follows
            if line := negotiation.data_to_send():
                self._mux.send(stream_id, line)
        if negotiation.protocol is None:
            return
        del self._negotiating[stream_id]
        inbound = isinstance(negotiation, Chooser)
        self._events.append(StreamOpened(stream_id, negotiation.protocol, inbound))
        rest = negotiation.take_rest()
        self._mux.grant(stream_id, self._fed.pop(stream_id) - len(rest))
        if rest:
            self._events.append(StreamData(stream_id, rest))

    def _ignore(self, event: Event) -> None:
        """What still comes on a stream that was told no."""
        if isinstance(event, StreamData):
            self._mux.grant(event.stream_id, len(event.data))
        elif isinstance(event, StreamAborted):
            self._refused.discard(event.stream_id)

    def _refuse(self, stream_id: int, reason: str) -> None:
        negotiation = self._negotiating.pop(stream_id)
        self._fed.pop(stream_id)
        if isinstance(negotiation, Chooser) and self._mux.unsent(stream_id):
            self._mux.end(stream_id)  # behind the answer "na", which a reset would overtake
            self._refused.add(stream_id)
            return
        self._mux.reset(stream_id)
        if isinstance(negotiation, Proposer):
            self._events.append(StreamRefused(stream_id, reason))

"""The connections of one identity: listeners, links by peer, and which protocols are served.

Rule of the file: it accepts, counts and forgets; whom to dial and what streams mean is decided
elsewhere (``dialing``, ``host``, ``relay``).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ..errors import CapacityError, ConfigError, KwaaiNetError
from ..identity.keys import PrivateKey, peer_id
from ..libp2p import noise
from ..libp2p.admission import Admission, Kind, Origin, Pace
from ..libp2p.bans import parse_host
from ..libp2p.connection import Connection
from ..libp2p.multiaddr import Multiaddr
from ..ports import Crypto
from ..types import PeerId
from . import transport
from .doors import Doors
from .link import Link, Wire
from .peerstore import Peerstore
from .stream import RawStream

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 16384  # one per tab and a few per native peer; about 28 kB each
MAX_HANDSHAKES = 256  # connections that have not proved an identity yet
MAX_SERVED = 8192  # streams being served; how many of one peer or address ``admission`` says

if TYPE_CHECKING:
    from .webrtc_direct import DirectListener

_T = TypeVar("_T")
RawHandler: TypeAlias = Callable[[RawStream], Awaitable[None]]


class Network:
    """All links of one identity. Implements ``link.LinkOwner``."""

    def __init__(self, identity: PrivateKey, crypto: Crypto, announce: Sequence[Multiaddr] = ()) -> None:
        self.identity = identity
        self.crypto = crypto
        self.credentials = noise.Credentials.create(crypto, identity, secrets.token_bytes(32))
        self.public_key = identity.public(crypto)
        self.peer_id = peer_id(self.public_key)
        self.peerstore = Peerstore()
        self.doors = Doors()  # to be told of a certificate before ``listen``
        self.max_connections = MAX_CONNECTIONS
        self.admission = Admission()
        self._announce = tuple(address.without_peer() for address in announce)
        self._circuits: dict[Multiaddr, None] = {}  # addresses through relays that hold a slot for us
        self._handlers: dict[str, RawHandler] = {}
        self._hidden: set[str] = set()
        self._listeners: list[transport.Listener | DirectListener] = []
        self._bound: list[Multiaddr] = []
        self._links: dict[PeerId, list[Link]] = {}
        self._open = 0  # links in all
        self._shaking: dict[Link, None] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._opened: list[Callable[[Link], None]] = []
        self._lost: list[Callable[[PeerId], None]] = []
        self._changed: list[Callable[[], None]] = []
        self._closed = False

    # --- what is served ---------------------------------------------------------------------------

    def handle(self, protocol: str, handler: RawHandler) -> None:
        """Serve a protocol; a stream that its handler leaves open stays open."""
        self._handlers[protocol] = handler
        self.changed()

    def hide(self, protocol: str) -> None:
        """Tell others that it is served no more; who asks all the same is answered."""
        self._hidden.add(protocol)
        self.changed()

    def show(self, protocol: str) -> None:
        """Tell others of it again."""
        self._hidden.discard(protocol)
        self.changed()

    def supports(self, protocol: str) -> bool:
        return protocol in self._handlers

    @property
    def protocols(self) -> Sequence[str]:
        """Ids of all protocols served."""
        return tuple(protocol for protocol in self._handlers if protocol not in self._hidden)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    # --- where we are -----------------------------------------------------------------------------

    async def listen(self, address: Multiaddr) -> None:
        """Bind one address. Raises ``InputError`` or ``Unreachable``."""
        listener: transport.Listener | DirectListener
        if "webrtc-direct" in address.names:
            listener = await _listen_directly(self, address)
            hashed = listener.address.parts[2:]
            self._announce = tuple(
                Multiaddr((*one.parts[:2], *hashed)) if one.names[-1] == "webrtc-direct" else one
                for one in self._announce
            )
        else:
            listener = await transport.listen(address, self.accept, self.doors)
        self._listeners.append(listener)
        bound = await asyncio.to_thread(_expand, listener.address)  # may ask a name server
        self._bound += bound if self.doors.tls is None else self.doors.tls.named(bound)
        self.changed()

    @property
    def addresses(self) -> list[Multiaddr]:
        """Where others can dial us (without ``/p2p``): what is announced, else what is bound."""
        return list(dict.fromkeys((*(self._announce or self._bound), *self._circuits)))

    def add_circuit(self, address: Multiaddr) -> None:
        """A relay granted a slot: we can be dialled through it."""
        self._circuits[address] = None
        self.changed()

    def remove_circuit(self, address: Multiaddr) -> None:
        """The slot is gone."""
        if self._circuits.pop(address, self) is None:
            self.changed()

    # --- who is connected -------------------------------------------------------------------------

    @property
    def peers(self) -> list[PeerId]:
        """Connected peers."""
        return list(self._links)

    @property
    def opening(self) -> int:
        """Connections whose peer has not proved who it is yet."""
        return len(self._shaking)

    def link(self, peer: PeerId) -> Link | None:
        """The best connection to a peer: a direct one before a circuit, then the newest, because an
        older one may be that of a process which is no more."""
        links = self.links_to(peer)
        return min(links, key=lambda link: link.address.is_circuit) if links else None

    def links_to(self, peer: PeerId) -> list[Link]:
        """The connections to a peer that take streams, newest first."""
        return [link for link in reversed(self._links.get(peer, [])) if not link.leaving]

    def links(self) -> Iterable[Link]:
        """All open connections."""
        return [link for links in self._links.values() for link in links]

    def on_opened(self, callback: Callable[[Link], None]) -> None:
        """Call back with every connection that opens."""
        self._opened.append(callback)

    def on_lost(self, callback: Callable[[PeerId], None]) -> None:
        """Call back with a peer when its last connection is gone."""
        self._lost.append(callback)

    def on_changed(self, callback: Callable[[], None]) -> None:
        """Call back when our protocols or addresses change."""
        self._changed.append(callback)

    def changed(self) -> None:
        """Our protocols or addresses changed."""
        for callback in self._changed:
            callback()

    # --- making links -----------------------------------------------------------------------------

    def accept(self, wire: Wire, address: Multiaddr) -> Link | None:
        """A link for a connection that came in; ``None`` over a cap."""
        try:
            return self.connect(wire, address, initiator=False)
        except CapacityError as error:
            logger.info("refused a connection from %s: %s", address, error)
            return None

    def connect(
        self,
        wire: Wire,
        address: Multiaddr,
        *,
        initiator: bool,
        expected_peer: PeerId | None = None,
        machine: Connection | None = None,
    ) -> Link:
        """A link over a wire; ``machine`` where another than yamux is spoken. Raises ``CapacityError``."""
        if self._closed:
            raise CapacityError("this host is closed")
        if len(self._shaking) >= MAX_HANDSHAKES:
            self._give_up_a_handshake()
        if self._open >= self.max_connections or len(self._shaking) >= MAX_HANDSHAKES:
            self.admission.refused["too many connections"] += 1
            raise CapacityError(f"{self._open} connections are open and {len(self._shaking)} are opening")
        origin = Origin() if initiator else self._admit(address)
        link = Link(self, wire, address, initiator=initiator, expected_peer=expected_peer, machine=machine)
        link.origin = origin
        self._shaking[link] = None
        return link

    def _admit(self, address: Multiaddr) -> Origin:
        """A place for what comes from there. Raises ``CapacityError``."""
        admission, host = self.admission, _host(address)
        origin = admission.origin(None, host)
        reason = (
            admission.refusal(None, host, time.time())
            or admission.hurry(Pace.ARRIVAL, origin, time.monotonic())
            or admission.take(Kind.CONNECTION, origin)
        )
        if reason is not None:
            raise CapacityError(reason)
        return origin

    def _admit_peer(self, link: Link) -> str | None:
        """Why a peer that has proved who it is may not stay, or ``None``."""
        peer, admission = link.remote_peer, self.admission
        if peer == self.peer_id:
            return "it is ourselves"
        reason = admission.refusal(peer, _host(link.address), time.time())
        if reason is None and not link.initiator:
            reason = admission.hurry(Pace.ARRIVAL, Origin(peer), time.monotonic())
        return reason or self._hold(link, admission.known(link.origin, peer))

    def _hold(self, link: Link, origin: Origin) -> str | None:
        """Its place is that of its peer, too, from now on; or why there is none."""
        self.admission.release(Kind.CONNECTION, link.origin)
        reason = self.admission.take(Kind.CONNECTION, origin)
        link.origin = origin if reason is None else Origin()
        return reason

    def too_often(self, address: Multiaddr) -> str | None:
        """Why we should not dial once more where strangers want us to, or ``None``; counted."""
        target = self.admission.origin(None, _host(address))
        return self.admission.hurry(Pace.TARGET, target, time.monotonic())

    def enforce(self) -> int:
        """Close whatever the rules do not let in any more; returns how many connections that were."""
        refusal, now = self.admission.rules.refusal, time.time()
        links = [*self.links(), *self._shaking]
        out = [
            (link, reason)
            for link in links
            if (reason := refusal(link.peer, parse_host(_host(link.address)), now)) is not None
        ]
        for link, reason in out:
            link.close(f"it is {reason}")
        return len(out)

    def _give_up_a_handshake(self) -> None:
        """The one that has taken longest makes room: a peer in earnest needs less than a second."""
        slowest = next((link for link in self._shaking if not link.initiator), None)
        if slowest is not None:
            logger.info("gave up the handshake with %s: others are waiting", slowest.address)
            slowest.close("it took too long to prove who it is, and others are waiting")

    # --- called by links --------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        self._shaking.pop(link, None)
        peer = link.remote_peer
        if (reason := self._admit_peer(link)) is not None:
            logger.info("closing the connection to %s at %s: %s", peer, link.address, reason)
            link.close(reason)
            return
        self._links.setdefault(peer, []).append(link)
        self._open += 1
        logger.info("connected to %s at %s", peer, link.address)
        _tell(self._opened, link)

    def link_closed(self, link: Link, reason: str) -> None:
        self.admission.release(Kind.CONNECTION, link.origin)
        if link in self._shaking:
            del self._shaking[link]
            logger.debug("no connection with %s: %s", link.address, reason)
            return
        peer = link.remote_peer
        links = self._links.get(peer, [])
        if link not in links:
            return
        links.remove(link)
        self._open -= 1
        logger.info("disconnected from %s at %s: %s", peer, link.address, reason)
        if not links:
            del self._links[peer]
            self.peerstore.disconnected(peer)
            _tell(self._lost, peer)

    def stream_opened(self, stream: RawStream) -> None:
        admission, origin = self.admission, stream.origin
        reason = "too many streams"
        if len(self._tasks) < MAX_SERVED:
            reason = admission.take(Kind.STREAM, origin) or ""
        else:
            admission.refused[reason] += 1
        if reason:
            logger.info("refused a %s stream of %s: %s", stream.protocol, stream.remote_peer, reason)
            stream.reset()
            return
        task = self.spawn(self._serve(stream))
        task.add_done_callback(lambda done: admission.release(Kind.STREAM, origin))

    # --- tasks and the end ------------------------------------------------------------------------

    def spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Run something until it ends or the host closes."""
        task = asyncio.ensure_future(work)
        self._tasks[task] = None
        task.add_done_callback(self._task_done)
        return task

    def close(self) -> None:
        """Stop listening, cancel what runs, close every connection."""
        self._closed = True
        for listener in self._listeners:
            listener.close()
        for task in list(self._tasks):
            task.cancel()
        links = [*self.links(), *self._shaking]
        for link in sorted(links, key=lambda link: not link.address.is_circuit):  # inner ones first
            link.close("this host is closing")

    async def _serve(self, stream: RawStream) -> None:
        try:
            await self._handlers[stream.protocol](stream)
        except (KwaaiNetError, TimeoutError) as error:
            logger.info("%s of %s ended: %s", stream.protocol, stream.remote_peer, error or "timeout")
            stream.reset()
        except BaseException:
            stream.reset()
            raise

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task failed", exc_info=error)


async def _listen_directly(network: Network, address: Multiaddr) -> DirectListener:
    try:
        from .webrtc_direct import DirectListener, load_certificate
    except ImportError as error:
        raise ConfigError(f'{address} needs {error.name}: pip install "kwaainet[webrtc]"') from None
    return await DirectListener.open(network, address, load_certificate(network.doors.webrtc_key))


def _host(address: Multiaddr) -> str | None:
    """The IP address that a peer is seen at; through a circuit none is."""
    return None if address.is_circuit or address.names[0] not in ("ip4", "ip6") else address.parts[0][1]


def _tell(callbacks: Iterable[Callable[[_T], None]], what: _T) -> None:
    """One callback's failure is no other's, nor the connection's."""
    for callback in callbacks:
        try:
            callback(what)
        except Exception:
            logger.exception("a callback failed on %s", what)


def _expand(address: Multiaddr) -> list[Multiaddr]:
    """A wildcard address as the addresses of this machine."""
    family, host = address.parts[0]
    if host not in ("0.0.0.0", "::"):
        return [address]
    kind = socket.AF_INET if family == "ip4" else socket.AF_INET6
    hosts = ["127.0.0.1" if family == "ip4" else "::1"]
    try:
        hosts += [str(row[4][0]) for row in socket.getaddrinfo(socket.gethostname(), None, kind)]
    except OSError:
        logger.debug("the addresses of this machine's name are not known")
    return [
        Multiaddr(((family, found.partition("%")[0]), *address.parts[1:])) for found in dict.fromkeys(hosts)
    ]

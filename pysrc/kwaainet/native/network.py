"""The connections of one identity: listeners, links by peer, and which protocols are served.

Rule of the file: it accepts, counts and forgets; whom to dial and what streams mean is decided
elsewhere (``dialing``, ``host``, ``relay``).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ..errors import CapacityError, ConfigError, KwaaiNetError
from ..identity.keys import PrivateKey, peer_id
from ..libp2p import noise
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
MAX_SERVED = 8192  # streams being served
MAX_SERVED_PER_PEER = 1024  # of them to one peer, so that it takes more than one to take them all
MAX_PER_PEER = 16  # a peer with more is leaking them: the newest is closed

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
        self._served: Counter[PeerId] = Counter()
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
            logger.warning("refused a connection from %s: %s", address, error)
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
            raise CapacityError(f"{self._open} connections are open and {len(self._shaking)} are opening")
        link = Link(self, wire, address, initiator=initiator, expected_peer=expected_peer, machine=machine)
        self._shaking[link] = None
        return link

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
        links = self._links.setdefault(peer, [])
        if peer == self.peer_id or len(links) >= MAX_PER_PEER:
            if not links:
                del self._links[peer]
            link.close("it is ourselves" if peer == self.peer_id else "the peer has too many connections")
            return
        links.append(link)
        self._open += 1
        logger.info("connected to %s at %s", peer, link.address)
        _tell(self._opened, link)

    def link_closed(self, link: Link, reason: str) -> None:
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
        if len(self._tasks) >= MAX_SERVED or self._served[stream.remote_peer] >= MAX_SERVED_PER_PEER:
            logger.info("refused a %s stream of %s: too many are served", stream.protocol, stream.remote_peer)
            stream.reset()
            return
        self.spawn(self._serve(stream))

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
        peer = stream.remote_peer
        self._served[peer] += 1
        try:
            await self._handlers[stream.protocol](stream)
        except (KwaaiNetError, TimeoutError) as error:
            logger.info("%s of %s ended: %s", stream.protocol, stream.remote_peer, error or "timeout")
            stream.reset()
        except BaseException:
            stream.reset()
            raise
        finally:
            self._served[peer] -= 1
            if not self._served[peer]:
                del self._served[peer]

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

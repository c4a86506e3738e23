"""``ports.Host`` natively: a libp2p host on asyncio, over TCP, WebSockets and circuits.

Composes the parts: ``Network`` holds connections, ``Identification`` and ``Routing`` serve and ask
identify and kad, ``Dialer`` and ``Circuits`` connect, ``rpc`` speaks Hivemind. Rule of the file: it
decides nothing that one of the parts could.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

from .. import __version__
from ..errors import UNAVAILABLE, InputError, Unreachable
from ..identity.keys import PrivateKey
from ..libp2p.multiaddr import Multiaddr
from ..ports import Crypto, Stream, StreamHandler, UnaryHandler
from ..types import PeerId
from ..wire.rpc import StreamAnswerer, StreamCaller
from . import rpc
from .circuits import Circuits
from .crypto import NativeCrypto
from .dialing import Dialer
from .identify import Identification
from .link import Link
from .network import Network, RawHandler
from .routing import Routing
from .stream import RawStream

AGENT = f"kwaainet/{__version__}"
FAREWELL_SECONDS = 1.0  # how long callers have to read that we are leaving
_FAREWELL = f"{UNAVAILABLE}it is leaving the network"


class NativeHost:
    """A host of one identity; make it with ``create``, then register handlers, then ``listen``."""

    def __init__(self, network: Network, listen: Sequence[Multiaddr]) -> None:
        self.network = network
        self.routing = Routing(network)
        self.identification = Identification(network, AGENT)
        self._circuits = Circuits(network)
        self._dialer = Dialer(network, self.routing, self._circuits)
        self._listen = tuple(listen)
        self._served: dict[rpc.RpcStream, None] = {}
        self._budget = rpc.Budget()
        self.on_call: rpc.Told = _nobody  # hears of what is asked of us, each step of a stream by itself,
        self.on_ask: rpc.Told = _nobody  # and of what we ask others

    @classmethod
    async def create(
        cls,
        identity: PrivateKey,
        listen: Sequence[str] = (),
        announce: Sequence[str] = (),
        crypto: Crypto | None = None,
    ) -> NativeHost:
        """A host that will listen on ``listen`` (``/ip4/../tcp/..``, ``../ws``, or a relay's address
        with ``/p2p-circuit`` behind it for a slot there) and tell others ``announce`` instead, if given.

        Raises ``InputError`` for an address that is none.
        """
        network = Network(identity, crypto or NativeCrypto(), [Multiaddr.parse(text) for text in announce])
        return cls(network, [Multiaddr.parse(text) for text in listen])

    @property
    def peer_id(self) -> PeerId:
        return self.network.peer_id

    @property
    def addresses(self) -> Sequence[str]:
        return [str(address.with_peer(self.peer_id)) for address in self.network.addresses]

    @property
    def connected_peers(self) -> Sequence[PeerId]:
        """Peers with at least one open connection."""
        return self.network.peers

    def on_peer_lost(self, callback: Callable[[PeerId], None]) -> None:
        """Call back with a peer when its last connection is gone."""
        self.network.on_lost(callback)

    # --- serving ----------------------------------------------------------------------------------

    def handle_unary(self, protocol: str, handler: UnaryHandler) -> None:
        async def watched(peer: PeerId, request: bytes) -> bytes:
            began, answered = monotonic(), False
            try:
                reply = await handler(peer, request)
                answered = True
                return reply
            finally:
                self.on_call(protocol, monotonic() - began, answered)

        self.network.handle(protocol, lambda raw: rpc.serve_unary(raw, watched))

    def handle_stream(self, protocol: str, handler: StreamHandler) -> None:
        async def serve(raw: RawStream) -> None:
            stream = rpc.RpcStream(raw, StreamAnswerer(), self._budget, self.on_call)
            self._served[stream] = None
            try:
                await rpc.serve_stream(stream, handler)
            finally:
                del self._served[stream]

        self.network.handle(protocol, serve)

    def handle_raw(self, protocol: str, handler: RawHandler) -> None:
        """Serve a protocol that is not a Hivemind RPC, on the stream's bytes."""
        self.network.handle(protocol, handler)

    async def listen(self) -> None:
        for address in self._listen:
            if address.is_circuit:
                relay, rest = address.split_circuit()
                if rest.parts and rest.peer != self.peer_id:
                    raise InputError(f"{address} is not an address to listen on: it ends in another peer")
                await self._circuits.keep_slot(relay, self._dialer.connect)
            else:
                await self.network.listen(address)
                self.routing.serve()

    # --- calling ----------------------------------------------------------------------------------

    async def connect(self, address: str) -> PeerId:
        """Connect to a multiaddr; returns who is there, once it can be asked where others are. Raises
        ``Unreachable``, ``HandshakeError``, ``InputError``."""
        link = await self._dialer.connect(Multiaddr.parse(address))
        await self.identification.known(link)
        return link.remote_peer

    async def call(self, peer: PeerId, protocol: str, request: bytes, *, timeout: float) -> bytes:
        began, answered = monotonic(), False
        try:
            async with asyncio.timeout(timeout):
                link = await self._reach(peer)
                reply = await rpc.call_unary(link.open_stream(protocol), peer, request)
            answered = True
            return reply
        finally:
            self.on_ask(protocol, monotonic() - began, answered)

    async def call_through(self, address: str, protocol: str, request: bytes, *, timeout: float) -> bytes:
        """``call`` whoever is at a multiaddr by a connection of its own, closed again afterwards."""
        async with asyncio.timeout(timeout):
            link = await self._dialer.connect_anew(Multiaddr.parse(address))
            try:
                return await rpc.call_unary(link.open_stream(protocol), link.remote_peer, request)
            finally:
                link.close("what it was opened for is done")

    async def open_stream(self, peer: PeerId, protocol: str, *, timeout: float) -> Stream:
        raw = await self.open_raw(peer, protocol, timeout=timeout)
        return rpc.RpcStream(raw, StreamCaller(), self._budget, self.on_ask)

    async def open_raw(self, peer: PeerId, protocol: str, *, timeout: float) -> RawStream:
        """A stream of a protocol that is not a Hivemind RPC. Raises ``Unreachable``,
        ``HandshakeError`` (the peer does not speak it), ``StreamReset``, ``TimeoutError``."""
        async with asyncio.timeout(timeout):
            stream = (await self._reach(peer)).open_stream(protocol)
            try:
                await stream.opened()
            except BaseException:
                stream.reset()
                raise
            return stream

    async def settle(self) -> int:
        """See ``Routing.settle``."""
        return await self.routing.settle(self._dialer.dial_record)

    async def reach_directly(self, peer: PeerId, allowed: Callable[[str], bool]) -> Link:
        """See ``Dialer.reach_directly``."""
        return await self._dialer.reach_directly(peer, allowed)

    async def close(self) -> None:
        if self.network.closed:
            return
        self._dialer.close()
        for stream in self._served:
            stream.fail(_FAREWELL)
        waiting = [asyncio.ensure_future(stream.gone()) for stream in self._served]
        if waiting:  # a connection that ends too soon takes the farewell with it
            _, late = await asyncio.wait(waiting, timeout=FAREWELL_SECONDS)
            for task in late:
                task.cancel()
        self.network.close()
        await asyncio.sleep(0)  # sockets write at the end of a turn of the loop

    async def _reach(self, peer: PeerId) -> Link:
        if self.network.closed:
            raise Unreachable("this host is closed")
        return await self._dialer.reach(peer)


def _nobody(protocol: str, seconds: float, well: bool) -> None:
    """Nobody listens."""

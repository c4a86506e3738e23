"""kad peer routing over a ``Network``: telling where peers are, and finding them.

Follows go-libp2p-kad-dht's client and server as far as FIND_NODE goes. Rule of the file: what is told
comes from connections and reservations that exist now; what is found is tried, not believed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from ..errors import KwaaiNetError
from ..libp2p import kad
from ..libp2p.kad import PeerRecord
from ..libp2p.multiaddr import Multiaddr
from ..types import PeerId
from .link import Link
from .network import Network
from .stream import RawStream

logger = logging.getLogger(__name__)

_TIMEOUT = 10.0  # seconds for one answer, dialling included
_IDLE = 120.0  # seconds a kad stream may stay open between questions

Dial: TypeAlias = Callable[[PeerRecord], Awaitable[Link]]


class Routing:
    """The kad client; also the server once ``serve`` was called."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._sources: list[Callable[[PeerId], list[Multiaddr]]] = []

    def serve(self) -> None:
        """Answer FIND_NODE."""
        if not self._network.supports(kad.PROTOCOL):
            self._network.handle(kad.PROTOCOL, self._answer)

    def add_source(self, source: Callable[[PeerId], list[Multiaddr]]) -> None:
        """Another place that knows addresses of peers, such as a relay's reservations."""
        self._sources.append(source)

    def addresses(self, peer: PeerId) -> list[Multiaddr]:
        """What we tell others about where a peer is."""
        own = str(self._network.peer_id)
        known = self._network.peerstore.addresses(peer)
        direct = [address for address in known if ("p2p", own) not in address.parts]
        return [address for source in self._sources for address in source(peer)] + direct

    async def find(self, target: PeerId, dial: Dial) -> tuple[tuple[Multiaddr, ...], int]:
        """(addresses of a peer, how many kad servers were asked), starting from connected ones."""
        known = self._network.peerstore.description
        unknown = [peer for peer in self._network.peers if not known(peer).protocols]  # just connected
        lookup = kad.Lookup(target, self._network.peer_id, [*self._servers(), *unknown])
        while peers := lookup.next_peers():
            answers = await asyncio.gather(*(self._ask(record, target, dial) for record in peers))
            for answer in answers:
                lookup.receive(answer)
        return lookup.addresses, lookup.asked

    async def _ask(self, record: PeerRecord, target: PeerId, dial: Dial) -> list[PeerRecord]:
        stream = None
        try:
            async with asyncio.timeout(_TIMEOUT):
                link = self._network.link(record.peer) or await dial(record)
                stream = link.open_stream(kad.PROTOCOL)
                stream.write_message(kad.write_find_node(target))
                message = await stream.read_message(kad.MAX_MESSAGE)
            return kad.read_response(message or b"")
        except (KwaaiNetError, TimeoutError) as error:
            logger.debug("%s did not say where %s is: %s", record.peer, target, error)
            return []
        finally:
            if stream is not None:
                stream.close()

    def _servers(self) -> list[PeerId]:
        description = self._network.peerstore.description
        return [peer for peer in self._network.peers if kad.PROTOCOL in description(peer).protocols]

    async def _answer(self, stream: RawStream) -> None:
        while True:
            async with asyncio.timeout(_IDLE):
                message = await stream.read_message(kad.MAX_MESSAGE)
            if message is None:
                break
            request = kad.read_request(message)
            stream.write_message(kad.write_response(request, self._closer(request, stream.remote_peer)))
            await stream.drain()
        stream.close()

    def _closer(self, request: kad.Request, asker: PeerId) -> list[PeerRecord]:
        """The target itself if known, then the closest kad servers (and ourselves if asked for)."""
        if request.type == kad.PING:
            return []
        if request.key == self._network.peer_id.data:
            # go-libp2p takes no peer into its routing table that does not find itself
            first = [PeerRecord(self._network.peer_id, tuple(self._network.addresses))]
        else:
            first = self._target(request.key)
        servers = (peer for peer in self._servers() if peer != asker and peer.data != request.key)
        records = (PeerRecord(p, tuple(self.addresses(p))) for p in kad.closest(request.key, servers))
        return [*first, *(record for record in records if record.addresses)][: kad.K]

    def _target(self, key: bytes) -> list[PeerRecord]:
        try:
            target = PeerId(key)
        except KwaaiNetError:
            return []  # a key of something else than a peer
        addresses = self.addresses(target)
        return [PeerRecord(target, tuple(addresses))] if addresses else []

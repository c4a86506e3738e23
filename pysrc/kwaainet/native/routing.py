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
SETTLE_PERIOD = 600.0  # seconds between two searches for our neighbours, go-libp2p's refresh interval
MAX_NEAR = 2 * kad.K  # of them told to others
_IDLE = 120.0  # seconds a kad stream may stay open between questions

Dial: TypeAlias = Callable[[PeerRecord], Awaitable[Link]]


class Routing:
    """The kad client; also the server once ``serve`` was called."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._sources: list[Callable[[PeerId], list[Multiaddr]]] = []
        self._near: dict[PeerId, PeerRecord] = {}  # the kad servers nearest to us, connected or not

    def serve(self) -> None:
        """Answer FIND_NODE."""
        if not self._network.supports(kad.PROTOCOL):
            self._network.handle(kad.PROTOCOL, self._answer)

    @property
    def near_bits(self) -> int:
        """How many bits a peer behind us should share with us to be found (see ``kad.near_bits``)."""
        servers = dict.fromkeys((*self._near, *self._servers()))
        return kad.near_bits(
            kad.position(self._network.peer_id.data), (kad.position(p.data) for p in servers)
        )

    async def settle(self, dial: Dial) -> int:
        """Find the kad servers nearest to us and be known to them; how many answered. Worth doing every
        ``SETTLE_PERIOD`` seconds, as go-libp2p refreshes its table."""
        known = [PeerRecord(peer, ()) for peer in self._servers()]
        search = kad.Closest(self._network.peer_id, [*known, *self._near.values()])
        while peers := search.next_peers():
            answers = await asyncio.gather(
                *(self._answer_of(record, self._network.peer_id, dial) for record in peers)
            )
            for record, answer in zip(peers, answers, strict=True):
                search.receive(record, answer)
        found = search.found[:MAX_NEAR]
        self._near = {record.peer: record for record in found}
        return len(found)

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
        return await self._answer_of(record, target, dial) or []

    async def _answer_of(self, record: PeerRecord, target: PeerId, dial: Dial) -> list[PeerRecord] | None:
        """``None`` if there is none."""
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
            return None
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
        known = dict.fromkeys((*self._servers(), *self._near))
        servers = (peer for peer in known if peer != asker and peer.data != request.key)
        records = (self._record(peer) for peer in kad.closest(request.key, servers))
        return [*first, *(record for record in records if record.addresses)][: kad.K]

    def _record(self, peer: PeerId) -> PeerRecord:
        addresses = tuple(self.addresses(peer))
        return PeerRecord(peer, addresses or self._near.get(peer, PeerRecord(peer, ())).addresses)

    def _target(self, key: bytes) -> list[PeerRecord]:
        try:
            target = PeerId(key)
        except KwaaiNetError:
            return []  # a key of something else than a peer
        addresses = self.addresses(target)
        return [PeerRecord(target, tuple(addresses))] if addresses else []

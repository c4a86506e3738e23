"""Getting a connection to a peer: by address, or by bare peer id.

By id, in this order: a connection that exists, the addresses known, those kad finds. Rule of the
file: one dial per peer at a time, whoever asks; a failure says what was tried.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence

from ..errors import CapacityError, InputError, KwaaiNetError, RequestError, Unreachable
from ..libp2p.kad import PeerRecord
from ..libp2p.multiaddr import Multiaddr
from ..types import PeerId
from . import transport
from .circuits import Circuits
from .link import Link
from .network import Network
from .routing import Routing

logger = logging.getLogger(__name__)

DIAL_TIMEOUT = 15.0  # seconds for one address, handshake included
STAGGER = 0.3  # seconds until the next address of a peer is tried beside the ones under way
MAX_ADDRESSES = 16  # tried per peer
_FAMILIES = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}


class Dialer:
    """Opens connections of one network."""

    def __init__(self, network: Network, routing: Routing, circuits: Circuits) -> None:
        self._network = network
        self._routing = routing
        self._circuits = circuits
        self._dials: dict[PeerId, asyncio.Task[Link]] = {}

    async def connect(self, address: Multiaddr) -> Link:
        """A connection to whoever is at an address (to ``/p2p/ID``, if it ends in one).

        Raises ``Unreachable``, ``HandshakeError`` (somebody else is there), ``InputError``.
        """
        peer = address.peer
        if peer == self._network.peer_id:
            raise InputError(f"{address} is this host's own address")
        if peer is not None and (link := self._network.link(peer)) is not None:
            return link
        return await self._dial(address, peer)

    async def connect_anew(self, address: Multiaddr) -> Link:
        """As ``connect``, by a connection of its own though there may be others: it shows that this way
        works."""
        return await self._dial(address, address.peer)

    async def reach(self, peer: PeerId) -> Link:
        """A connection to a peer by its id. Raises ``Unreachable``, saying what was tried."""
        link = self._network.link(peer)
        if link is not None:
            return link
        if peer == self._network.peer_id:
            raise Unreachable(f"{peer} is this host itself")
        task = self._dials.get(peer)
        if task is None:
            task = self._dials[peer] = asyncio.ensure_future(self._find_and_dial(peer))
            task.add_done_callback(lambda done: self._dials.pop(peer, None))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # may go unread
        return await asyncio.shield(task)

    async def reach_directly(self, peer: PeerId, allowed: Callable[[str], bool]) -> Link:
        """A connection without a relay in between, to an IP address that is ``allowed``: one that is
        there, or a new one over TCP or WebSocket. Nothing else is dialled to find it either.

        Raises ``RequestError`` if all it was found at is not allowed, ``Unreachable``.
        """
        for known_link in self._network.links_to(peer):
            if not known_link.address.is_circuit and allowed(known_link.address.parts[0][1]):
                return known_link
        attempt = _DirectDial(peer, allowed, self._network.too_often, self._dial_any)
        known = tuple(self._network.peerstore.addresses(peer))
        link = await attempt.dial(known)
        if link is None:
            found, _ = await self._routing.find(peer, attempt.dial_record)
            link = await attempt.dial([address for address in found if address not in known])
        if link is None:
            raise attempt.failure()
        return link

    def close(self) -> None:
        """Give all dials up."""
        for task in list(self._dials.values()):
            task.cancel()

    async def _find_and_dial(self, peer: PeerId) -> Link:
        tried: list[str] = []
        known = self._network.peerstore.addresses(peer)
        link = await self._dial_any(peer, known, tried)
        if link is None:
            found, asked = await self._routing.find(peer, self.dial_record)
            tried.append(f"{asked} kad servers knew {len(found)} addresses")
            link = await self._dial_any(peer, [a for a in found if a not in known], tried)
            self._network.peerstore.add(peer, found if link is not None else ())
        if link is None:
            raise Unreachable(f"{peer} cannot be reached: {'; '.join(tried)}")
        return link

    async def dial_record(self, record: PeerRecord) -> Link:
        """A connection to a peer that kad told of. Raises ``Unreachable``."""
        tried: list[str] = []
        link = await self._dial_any(record.peer, record.addresses, tried)
        if link is None:
            raise Unreachable("; ".join(tried) or f"no address of {record.peer} can be dialled")
        return link

    async def _dial_any(self, peer: PeerId, addresses: Sequence[Multiaddr], tried: list[str]) -> Link | None:
        """The first connection that opens; attempts start ``STAGGER`` apart, direct addresses first."""
        usable = [a for a in addresses if a.transport or (a.is_circuit and self._relay_of(a))]
        queue = sorted(usable, key=lambda address: address.is_circuit)[:MAX_ADDRESSES]
        attempts: dict[asyncio.Task[Link], Multiaddr] = {}
        try:
            while queue or attempts:
                if queue:
                    address = queue.pop(0)
                    attempts[asyncio.ensure_future(self._dial(address, peer))] = address
                done, _ = await asyncio.wait(
                    attempts, timeout=STAGGER if queue else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    address = attempts.pop(task)
                    if (error := task.exception()) is None:
                        return task.result()
                    tried.append(f"{address}: {error}")
            return None
        finally:
            for task in attempts:
                task.cancel()

    async def _dial(self, address: Multiaddr, peer: PeerId | None) -> Link:
        try:
            async with asyncio.timeout(DIAL_TIMEOUT):
                link = await (self._through_relay if address.is_circuit else self._direct)(address, peer)
                try:
                    await asyncio.shield(link.ready)
                except asyncio.CancelledError:
                    link.close("the dial was given up")
                    raise
                return link
        except TimeoutError as error:
            raise Unreachable(f"{address}: no answer within {DIAL_TIMEOUT:.0f} s") from error
        except CapacityError as error:
            raise Unreachable(str(error)) from error

    async def _direct(self, address: Multiaddr, peer: PeerId | None) -> Link:
        if address.transport is None:
            raise Unreachable(f"{address} cannot be dialled from here; only tcp, ws and wss can")
        bare = address.without_peer()
        network = self._network
        return await transport.dial(
            address,
            lambda wire, _: network.connect(wire, bare, initiator=True, expected_peer=peer),
        )

    async def _through_relay(self, address: Multiaddr, peer: PeerId | None) -> Link:
        target = peer or address.peer
        relay_address, _ = address.split_circuit()
        if target is None:
            raise InputError(f"{address} names no peer behind the relay; add /p2p/ID to it")
        relay = relay_address.peer
        if relay_address.is_circuit:
            raise Unreachable(f"{address} leads through two relays, which is not supported")
        link = self._network.link(relay) if relay is not None else None
        if link is None:
            link = await self.connect(relay_address)
        return await self._circuits.dial(link, target)

    def _relay_of(self, address: Multiaddr) -> PeerId | None:
        """The relay of a circuit address that we could use, ``None`` if it is ourselves."""
        try:
            relay = address.split_circuit()[0].peer
        except KwaaiNetError:
            return None
        return None if relay == self._network.peer_id else relay


class _DirectDial:
    """Finding one peer by allowed addresses only; notes what was refused and what failed."""

    def __init__(
        self,
        peer: PeerId,
        allowed: Callable[[str], bool],
        too_often: Callable[[Multiaddr], str | None],
        dial_any: Callable[[PeerId, Sequence[Multiaddr], list[str]], Awaitable[Link | None]],
    ) -> None:
        self._peer, self._allowed, self._too_often, self._dial_any = peer, allowed, too_often, dial_any
        self._refused: dict[Multiaddr, None] = {}
        self._tried: list[str] = []

    async def dial(self, addresses: Sequence[Multiaddr]) -> Link | None:
        """The peer itself."""
        permitted, refused = await self._sort(addresses)
        self._refused |= dict.fromkeys(refused)
        return await self._dial_any(self._peer, self._calm(permitted), self._tried)

    async def dial_record(self, record: PeerRecord) -> Link:
        """A kad server on the way. Raises ``Unreachable``."""
        permitted, _ = await self._sort(record.addresses)
        link = await self._dial_any(record.peer, self._calm(permitted), [])
        if link is None:
            raise Unreachable(f"{record.peer} is at no allowed address that answers")
        return link

    def failure(self) -> RequestError | Unreachable:
        """Why there is no connection."""
        if self._refused and not self._tried:
            places = ", ".join(map(str, self._refused))
            return RequestError(f"{self._peer} is only at {places}, which is not allowed here")
        return Unreachable(
            f"{self._peer} cannot be reached: {'; '.join(self._tried) or 'no address is known'}"
        )

    def _calm(self, addresses: Sequence[Multiaddr]) -> list[Multiaddr]:
        """Those to which not too many dials lead already; of the others it is noted."""
        reasons = {address: self._too_often(address) for address in addresses}
        self._tried += [f"{address}: {reason}" for address, reason in reasons.items() if reason is not None]
        return [address for address, reason in reasons.items() if reason is None]

    async def _sort(self, addresses: Sequence[Multiaddr]) -> tuple[list[Multiaddr], list[Multiaddr]]:
        found = [one for address in addresses[:MAX_ADDRESSES] for one in await _resolved(address)]
        permitted = [address for address in found if self._allowed(address.parts[0][1])]
        return permitted, [address for address in found if address not in permitted]


async def _resolved(address: Multiaddr) -> list[Multiaddr]:
    """The same place by IP address; empty for what is no TCP or WebSocket address or has no such name."""
    if address.transport not in ("tcp", "ws"):
        return []  # wss needs its name
    (kind, host), *rest = address.parts
    if kind not in _FAMILIES:
        return [address]
    try:
        rows = await asyncio.get_running_loop().getaddrinfo(
            host, None, family=_FAMILIES[kind], type=socket.SOCK_STREAM
        )
    except OSError as error:
        logger.debug("%s has no address: %s", host, error)
        return []
    hosts = dict.fromkeys(str(row[4][0]).partition("%")[0] for row in rows)
    return [Multiaddr((("ip6" if ":" in one else "ip4", one), *rest)) for one in hosts]

"""The relays of a swarm among themselves: how they find each other, and who tells whom which tabs it holds.

A relay stands in the DHT under ``_kwaainet.relays`` (subkey: its peer id; value: a map with its addresses),
put there by itself every ``PERIOD`` seconds. To those it finds it says which peers hold a slot with it
(``RelayProtocol.rpc_share``), so that each of them can tell where the other's tabs are, and asks no farewell
for a tab that another still reaches. Rule of the file: a word counts only if it comes from the relay itself,
and for ``STALE`` seconds; everything that others say is bounded, and tried before it is relied on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

from ..dht.record import Dictionary, Record, StoreItem
from ..errors import KwaaiNetError, ProtocolError, RequestError
from ..ports import Clock, Host
from ..swarm.shapes import MAX_RELAY_ADDRESSES, RELAYS_KEY, read_relay
from ..types import PeerId
from ..wire import msgpack

log = logging.getLogger(__name__)

PROTOCOL = "RelayProtocol.rpc_share"
PERIOD = 60.0  # seconds between two looks at who is there; a record lives three of them
SHARE_PERIOD = 2.0  # seconds between two looks at whether there is something new to say
STALE = 30.0  # seconds for which it holds; it is said again after half of that
MAX_RELAYS = 32  # told and listened to
MAX_HELD = 4096  # peers of one relay, as many as it has slots and as one msgpack list may have
CALL_TIMEOUT = 5.0  # seconds
ELSEWHERE_TIMEOUT = (
    1.2  # seconds to find out whether a lost tab is reached through another relay: of 2 s in all
)

Reach = Callable[[PeerId, Sequence[str]], Awaitable[bool]]  # (peer, circuit addresses) -> whether it answers


class Records(Protocol):
    """The part of a DHT node that is needed here."""

    async def store_many(self, items: Sequence[StoreItem]) -> list[bool]:
        """Store each item."""

    async def get_many(self, keys: Collection[str], latest: bool = True) -> dict[str, Record | None]:
        """The record under each key."""


class Relays:
    """One relay's view. ``held`` are the peers with a slot here; ``reach`` tries a peer at circuit
    addresses."""

    def __init__(
        self, host: Host, dht: Records, held: Callable[[], Collection[PeerId]], reach: Reach, now: Clock
    ) -> None:
        self._host, self._dht, self._held, self._reach, self._now = host, dht, held, reach, now
        self._known: dict[PeerId, tuple[str, ...]] = {}
        self._elsewhere: dict[PeerId, tuple[float, frozenset[PeerId]]] = {}
        self._told: dict[PeerId, tuple[float, frozenset[PeerId]]] = {}
        self._looked = -PERIOD
        host.handle_unary(PROTOCOL, self.rpc_share)

    @property
    def addresses(self) -> list[str]:
        """Of the other relays, each ending in its peer id."""
        return [address for addresses in self._known.values() for address in addresses]

    def circuits(self, peer: PeerId) -> list[str]:
        """Where other relays say that they hold a peer: addresses that end in ``/p2p-circuit``."""
        since = self._now() - STALE
        holders = [relay for relay, (at, held) in self._elsewhere.items() if at > since and peer in held]
        return [f"{address}/p2p-circuit" for relay in holders for address in self._known.get(relay, ())]

    async def reaches(self, peer: PeerId) -> bool:
        """Whether a peer answers through another relay; tried, within ``ELSEWHERE_TIMEOUT``."""
        addresses = self.circuits(peer)
        if not addresses:
            return False
        try:
            async with asyncio.timeout(ELSEWHERE_TIMEOUT):
                return await self._reach(peer, addresses)
        except (KwaaiNetError, TimeoutError) as error:
            log.info("%s is not reached through another relay: %s", peer, error or "timeout")
            return False

    async def rpc_share(self, peer: PeerId, request: bytes) -> bytes:
        """Another relay says whom it holds: a msgpack list of peer ids. The reply is empty."""
        if peer not in self._known and self._now() >= self._looked + SHARE_PERIOD:
            await self.look()
        if peer not in self._known:
            raise RequestError(f"{peer} does not stand under {RELAYS_KEY}; announce it before it shares")
        self._elsewhere[peer] = self._now(), _read_held(request)
        return b""

    async def run(self) -> None:
        """Keep looking and telling, until cancelled."""
        announced = -PERIOD
        while True:
            try:
                if self._now() >= announced + PERIOD:
                    announced = self._now()
                    await self.announce()
                    await self.look()
                await self.share()
            except (KwaaiNetError, TimeoutError) as error:
                log.warning("the other relays were not told: %s", error or "timeout")
            await asyncio.sleep(SHARE_PERIOD)

    async def announce(self, lifetime: float = 3 * PERIOD) -> None:
        """Stand in the DHT as a relay for ``lifetime`` seconds."""
        value = msgpack.dumps({"addresses": list(self._host.addresses)[:MAX_RELAY_ADDRESSES]})
        await self._dht.store_many(
            [StoreItem(RELAYS_KEY, str(self._host.peer_id), value, self._now() + lifetime)]
        )

    async def look(self) -> None:
        """Read who else is a relay."""
        self._looked = self._now()
        record = (await self._dht.get_many([RELAYS_KEY]))[RELAYS_KEY]
        found: dict[PeerId, tuple[str, ...]] = {}
        entries = record.entries if isinstance(record, Dictionary) else {}
        for subkey, value in sorted(entries.items(), key=lambda item: -item[1].expiration):
            addresses = read_relay(subkey, value.data)
            if addresses is not None and len(found) < MAX_RELAYS and subkey != str(self._host.peer_id):
                found[PeerId.parse(str(subkey))] = addresses
        self._known = found
        self._elsewhere = {relay: word for relay, word in self._elsewhere.items() if relay in found}
        self._told = {relay: word for relay, word in self._told.items() if relay in found}

    async def share(self) -> None:
        """Say whom we hold to those who have not heard it lately."""
        held, now = frozenset(list(self._held())[:MAX_HELD]), self._now()
        due = [relay for relay in self._known if self._is_due(relay, held, now)]
        await asyncio.gather(*(self._tell(relay, held, now) for relay in due))

    def _is_due(self, relay: PeerId, held: frozenset[PeerId], now: float) -> bool:
        at, told = self._told.get(relay, (-STALE, frozenset()))
        return told != held or now >= at + STALE / 2

    async def _tell(self, relay: PeerId, held: frozenset[PeerId], now: float) -> None:
        request = msgpack.dumps([peer.data for peer in held])
        try:
            await self._host.call(relay, PROTOCOL, request, timeout=CALL_TIMEOUT)
            self._told[relay] = now, held
        except (KwaaiNetError, TimeoutError) as error:
            log.debug("relay %s does not listen: %s", relay, error or "timeout")


def _read_held(request: bytes) -> frozenset[PeerId]:
    value = msgpack.loads(request)
    if not isinstance(value, list) or not all(isinstance(one, bytes) for one in value):
        raise ProtocolError(f"shared peers: expected a list of peer ids, got {type(value).__name__}")
    return frozenset(PeerId(one) for one in value)

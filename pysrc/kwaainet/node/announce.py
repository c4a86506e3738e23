"""How a server gets into the DHT: through its relay, or through a DHT node of its own.

Both ends of ``RelayProtocol.rpc_announce`` (see ``swarm.announcement``). Rule of the file: whatever
order messages and losses come in, the last word has the latest expiration, so that the DHT keeps it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from ..dht.record import StoreItem
from ..errors import CapacityError, KwaaiNetError, LimitExceeded, RequestError
from ..ports import Clock, Host
from ..swarm.announcement import PROTOCOL, Announcement
from ..types import PeerId, ServerState

log = logging.getLogger(__name__)

MAX_PREFIXES_PER_PEER = 4  # models one peer may serve at a time
MAX_PEERS = 4096  # peers remembered by one relay
MAX_PER_MINUTE = 30  # announcements of one peer; a tab that starts, stops and starts sends six
_TICK = 0.001  # seconds by which a later word outlives an earlier one


class RecordStore(Protocol):
    """The part of a DHT node that announcing needs."""

    async def store_many(self, items: Sequence[StoreItem]) -> list[bool]:
        """Store each item; returns whether it was accepted (not if a newer one is there)."""


class Announcer(Protocol):
    """A server's way into the DHT."""

    async def announce(self, announcement: Announcement) -> None:
        """Make this what the swarm reads of us. Raises ``KwaaiNetError`` or ``TimeoutError``."""

    def farewell(self) -> bytes:
        """What somebody else may send in our name when we vanish: a request of ``PROTOCOL`` that
        takes the last announcement down. Empty if there is nothing to send."""


class RelayAnnouncer:
    """Has the relay announce us; for a tab, which can dial nobody else."""

    def __init__(self, host: Host, relay: PeerId, *, timeout: float = 15.0) -> None:
        self._host, self._relay, self._timeout = host, relay, timeout
        self._last: Announcement | None = None

    async def announce(self, announcement: Announcement) -> None:
        """See ``Announcer``."""
        self._last = announcement
        await self._host.call(self._relay, PROTOCOL, announcement.encode(), timeout=self._timeout)

    def farewell(self) -> bytes:
        """See ``Announcer``; the relay takes an announcement to live from when it arrives."""
        return b"" if self._last is None else self._last.with_state(ServerState.OFFLINE).encode()


class DhtAnnouncer:
    """Stores our records through a DHT node of our own; for native servers."""

    def __init__(self, dht: RecordStore, peer: PeerId, now: Clock) -> None:
        self._dht, self._peer, self._now = dht, peer, now
        self._expiration = 0.0

    async def announce(self, announcement: Announcement) -> None:
        """See ``Announcer``."""
        self._expiration = max(self._now() + announcement.ttl, self._expiration + _TICK)
        await _store(self._dht, announcement.records(self._peer, self._expiration))

    def farewell(self) -> bytes:
        """Nobody else speaks for us."""
        return b""


class AnnounceHandler:
    """The relay's end: stores what its peers announce, and takes it down when they are lost.

    ``is_connected`` says whether a peer may be announced (it holds a reservation or a connection
    here): the swarm must be able to reach it through us. Tell ``peer_lost`` of every connection
    that ends; a peer that is still connected is left alone.
    """

    def __init__(
        self, host: Host, dht: RecordStore, is_connected: Callable[[PeerId], bool], now: Clock
    ) -> None:
        self._dht, self._is_connected, self._now = dht, is_connected, now
        self._peers: dict[PeerId, _Announced] = {}
        self._withdrawals: set[asyncio.Task[None]] = set()
        host.handle_unary(PROTOCOL, self.rpc_announce)

    @property
    def announced(self) -> dict[PeerId, list[Announcement]]:
        """What stands in the DHT through us, offline ones left out."""
        now = self._now()
        live = {peer: announced.live(now) for peer, announced in self._peers.items()}
        return {peer: announcements for peer, announcements in live.items() if announcements}

    async def rpc_announce(self, peer: PeerId, request: bytes) -> bytes:
        """Store the caller's announcement under the caller's own id; the reply is empty."""
        announcement = Announcement.decode(request)
        if not self._is_connected(peer):
            raise RequestError(f"{peer} holds no reservation here; reserve a slot before announcing")
        now = self._now()
        announced = self._remember(peer, now)
        announced.check_rate(now)
        await _store(self._dht, announced.add(peer, announcement, now))
        return b""

    def peer_lost(self, peer: PeerId) -> None:
        """A connection of this peer has ended: if it was the last, announce it as offline."""
        if peer in self._peers and not self._is_connected(peer):
            task = asyncio.ensure_future(self._withdraw(peer, self._take_down(peer)))
            self._withdrawals.add(task)
            task.add_done_callback(self._withdrawals.discard)

    async def withdraw_all(self) -> None:
        """Take everything down, as a relay does that stops: nobody is reachable through it then."""
        for peer in list(self._peers):
            await self._withdraw(peer, self._take_down(peer))

    def _take_down(self, peer: PeerId) -> list[StoreItem]:
        """The records of a farewell. Dated at once: what the peer announces from now on is later."""
        announced, now = self._peers[peer], self._now()
        return [
            record
            for announcement in announced.live(now)
            for record in announced.add(peer, announcement.with_state(ServerState.OFFLINE), now)
        ]

    async def _withdraw(self, peer: PeerId, records: Sequence[StoreItem]) -> None:
        try:
            await _store(self._dht, records)
        except (KwaaiNetError, TimeoutError) as error:
            log.warning("%s left, but its records could not be taken down: %s", peer, error)

    def _remember(self, peer: PeerId, now: float) -> _Announced:
        if peer not in self._peers and len(self._peers) >= MAX_PEERS:
            self._peers = {one: known for one, known in self._peers.items() if known.is_fresh(now)}
            if len(self._peers) >= MAX_PEERS:
                raise CapacityError(f"this relay announces {MAX_PEERS} peers already; use another relay")
        return self._peers.setdefault(peer, _Announced())


async def _store(dht: RecordStore, records: Sequence[StoreItem]) -> None:
    if not records:
        return
    accepted = sum(await dht.store_many(records))
    if not accepted:
        raise CapacityError(f"none of the {len(records)} records could be stored in the DHT; try again")
    if accepted < len(records):
        log.warning("%d of %d records were not stored", len(records) - accepted, len(records))


class _Announced:
    """What one peer has announced: by prefix, the last announcement and when it expires."""

    def __init__(self) -> None:
        self._by_prefix: dict[str, tuple[Announcement, float]] = {}
        self._times: deque[float] = deque()

    def check_rate(self, now: float) -> None:
        """``LimitExceeded`` for more than ``MAX_PER_MINUTE``."""
        while self._times and self._times[0] <= now - 60:
            self._times.popleft()
        if len(self._times) >= MAX_PER_MINUTE:
            raise LimitExceeded(f"more than {MAX_PER_MINUTE} announcements within a minute; slow down")
        self._times.append(now)

    def add(self, peer: PeerId, announcement: Announcement, now: float) -> list[StoreItem]:
        """Note it as the last word of its prefix; returns the records to store.

        They take down the blocks that the word before it had and this one has not.
        ``LimitExceeded`` for a prefix too many.
        """
        prefix = announcement.prefix
        self._by_prefix = {one: last for one, last in self._by_prefix.items() if last[1] > now}
        if prefix not in self._by_prefix and len(self._by_prefix) >= MAX_PREFIXES_PER_PEER:
            raise LimitExceeded(f"{MAX_PREFIXES_PER_PEER} models of one peer are announced already")
        before, before_expiration = self._by_prefix.get(prefix, (announcement, 0.0))
        expiration = max(now + announcement.ttl, before_expiration + _TICK)
        self._by_prefix[prefix] = (announcement, expiration)
        records = announcement.records(peer, expiration)
        keys = {record.key for record in records}
        left = before.with_state(ServerState.OFFLINE).records(peer, expiration)
        return records + [record for record in left if record.key not in keys]

    def live(self, now: float) -> list[Announcement]:
        """What has not expired and is not offline."""
        return [
            last
            for last, expiration in self._by_prefix.values()
            if expiration > now and last.server.state != ServerState.OFFLINE
        ]

    def is_fresh(self, now: float) -> bool:
        return any(expiration > now for _, expiration in self._by_prefix.values())

"""How a server gets into the DHT: through its relay, or through a DHT node of its own.

Both ends of ``RelayProtocol.rpc_announce`` (see ``swarm.announcement``). Rule of the file: whatever
order messages and losses come in, the last word has the latest expiration, so that the DHT keeps it; a word
that was taken is stored, even if who gave it is lost meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..dht.record import StoreItem
from ..errors import CapacityError, KwaaiNetError, LimitExceeded, RequestError
from ..ports import Clock, Host
from ..swarm.announcement import PROTOCOL, Announcement
from ..types import PeerId, ServerState
from .rate_limit import RateLimit

log = logging.getLogger(__name__)

MAX_PREFIXES_PER_PEER = 4  # models one peer may serve at a time
MAX_PEERS = 4096  # peers remembered by one relay
MAX_PER_MINUTE = 240  # announcements of one peer; a tab that starts and stops sends four
WITHDRAW_TRIES = 5  # to take a lost peer's records down,
WITHDRAW_PAUSE = 2.0  # seconds before the second, and twice as long before each that follows
_FEW = 64  # peers that are not worth a sweep
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
    """Has the relay announce us; for a tab, which can dial nobody else. ``relay`` may change with time."""

    def __init__(self, host: Host, relay: PeerId | Callable[[], PeerId], *, timeout: float = 15.0) -> None:
        self._host, self._timeout = host, timeout
        self._relay: Callable[[], PeerId] = relay if callable(relay) else lambda: relay
        self._last: Announcement | None = None

    async def announce(self, announcement: Announcement) -> None:
        """See ``Announcer``."""
        self._last = announcement
        await self._host.call(self._relay(), PROTOCOL, announcement.encode(), timeout=self._timeout)

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


async def _nowhere(peer: PeerId) -> bool:
    """There is no other relay."""
    return False


class AnnounceHandler:
    """The relay's end: stores what its peers announce, and takes it down when they are lost.

    ``is_connected`` says whether a peer may be announced (it holds a reservation or a connection
    here): the swarm must be able to reach it through us. Tell ``peer_lost`` of every connection
    that ends; a peer that is still connected is left alone, and so is one that ``elsewhere`` finds
    reachable through another relay: that one speaks for it from then on. ``changed`` is told the models of
    which something was stored.
    """

    def __init__(
        self,
        host: Host,
        dht: RecordStore,
        is_connected: Callable[[PeerId], bool],
        now: Clock,
        elsewhere: Callable[[PeerId], Awaitable[bool]] = _nowhere,
        changed: Callable[[str], None] = lambda prefix: None,
    ) -> None:
        self._dht, self._is_connected, self._now = dht, is_connected, now
        self._elsewhere, self._changed = elsewhere, changed
        self._peers: dict[PeerId, _Announced] = {}
        self._sweep_at = _FEW  # peers
        self._tasks: set[asyncio.Future[None]] = set()
        self._rate = RateLimit("announcements", MAX_PER_MINUTE, MAX_PEERS)
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
        self._rate.count(peer, now)
        storing = self._begin(self._store(announced, announced.add(peer, announcement, now)))
        await asyncio.shield(storing)  # a farewell is stored though its sender is gone by then
        return b""

    def peer_lost(self, peer: PeerId) -> None:
        """A connection of this peer has ended: if it was the last, announce it as offline."""
        if peer in self._peers and not self._is_connected(peer):
            self._begin(self._leave(peer, self._take_down(peer), WITHDRAW_TRIES))

    async def withdraw_all(self) -> None:
        """Take everything down, as a relay does that stops: nobody is reachable through it then."""
        await asyncio.gather(*(self._leave(peer, self._take_down(peer)) for peer in list(self._peers)))

    async def _leave(self, peer: PeerId, words: _Words, tries: int = 1) -> None:
        """Say these farewells of a peer that we reach no more, unless another relay does."""
        if words.records and await self._elsewhere(peer):
            log.info("%s is left to another relay, which reaches it", peer)
            if not self._peers[peer].live(self._now()):  # or else it is back, and has announced itself again
                del self._peers[peer]
            return
        await self._withdraw(peer, words, tries)

    async def clock_set_ahead(self, seconds: float) -> None:
        """The machine's clock has jumped: all that stands through us ran out at once. Those who are still
        connected are said anew, to live as long as they had left."""
        for peer, announced in list(self._peers.items()):
            if self._is_connected(peer) and (words := announced.moved(peer, seconds)).records:
                await asyncio.wait({self._begin(self._store(announced, words))})

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:  # its caller may be gone
            log.info("an announcement was not stored: %s", error)

    async def _store(self, announced: _Announced, words: _Words) -> None:
        await _store(self._dht, words.records)
        announced.stored(words)
        for prefix in words.expirations:
            self._changed(prefix)

    def _take_down(self, peer: PeerId) -> _Words:
        """Farewells. Dated at once: what the peer announces from now on is later."""
        announced, now = self._peers[peer], self._now()
        words = _Words()
        for announcement in announced.to_take_down(now):
            words += announced.add(peer, announcement.with_state(ServerState.OFFLINE), now)
        return words

    async def _withdraw(self, peer: PeerId, words: _Words, tries: int = 1) -> None:
        announced = self._peers.get(peer)
        if announced is None:  # forgotten meanwhile, for all it said had expired
            return
        for attempt in range(tries):
            try:
                return await self._store(announced, words)
            except (KwaaiNetError, TimeoutError) as error:
                log.warning("%s left, but its records could not be taken down: %s", peer, error)
            if attempt + 1 < tries:
                await asyncio.sleep(WITHDRAW_PAUSE * 2**attempt)
            if announced.live(self._now()):  # it is back
                return

    def _remember(self, peer: PeerId, now: float) -> _Announced:
        if peer not in self._peers and len(self._peers) >= min(self._sweep_at, MAX_PEERS):
            self._peers = {one: known for one, known in self._peers.items() if known.is_fresh(now)}
            self._sweep_at = max(_FEW, 2 * len(self._peers))
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


@dataclass(slots=True)
class _Words:
    """What is to be stored, and by prefix when it expires."""

    records: list[StoreItem] = field(default_factory=list)
    expirations: dict[str, float] = field(default_factory=dict)

    def __iadd__(self, more: _Words) -> _Words:
        self.records += more.records
        self.expirations |= more.expirations
        return self


class _Announced:
    """What one peer has announced: by prefix, the last announcement and when it expires.

    ``_unstored`` are the prefixes of which the DHT may not have the last word yet.
    """

    def __init__(self) -> None:
        self._by_prefix: dict[str, tuple[Announcement, float]] = {}
        self._unstored: set[str] = set()

    def add(self, peer: PeerId, announcement: Announcement, now: float) -> _Words:
        """Note it as the last word of its prefix; returns what to store.

        They take down the blocks that the word before it had and this one has not.
        ``LimitExceeded`` for a prefix too many.
        """
        prefix = announcement.prefix
        self._by_prefix = {one: last for one, last in self._by_prefix.items() if last[1] > now}
        self._unstored &= self._by_prefix.keys()
        if prefix not in self._by_prefix and len(self._by_prefix) >= MAX_PREFIXES_PER_PEER:
            raise LimitExceeded(f"{MAX_PREFIXES_PER_PEER} models of one peer are announced already")
        before, before_expiration = self._by_prefix.get(prefix, (announcement, 0.0))
        expiration = max(now + announcement.ttl, before_expiration + _TICK)
        self._by_prefix[prefix] = (announcement, expiration)
        records = announcement.records(peer, expiration)
        keys = {record.key for record in records}
        left = before.with_state(ServerState.OFFLINE).records(peer, expiration)
        self._unstored.add(prefix)
        records += [record for record in left if record.key not in keys]
        return _Words(records, {prefix: expiration})

    def moved(self, peer: PeerId, seconds: float) -> _Words:
        """What is not offline, as it is to be stored when it expires so much later."""
        words = _Words()
        for prefix, (last, expiration) in self._by_prefix.items():
            if last.server.state != ServerState.OFFLINE:
                self._by_prefix[prefix] = last, expiration + seconds
                records = last.records(peer, expiration + seconds)
                words += _Words(records, {prefix: expiration + seconds})
        return words

    def stored(self, words: _Words) -> None:
        """The DHT has these."""
        for prefix, expiration in words.expirations.items():
            if prefix in self._by_prefix and self._by_prefix[prefix][1] == expiration:
                self._unstored.discard(prefix)

    def to_take_down(self, now: float) -> list[Announcement]:
        """What the DHT may hold of a peer that is gone: unless it has a farewell for certain."""
        return [
            last
            for prefix, (last, expiration) in self._by_prefix.items()
            if expiration > now and (last.server.state != ServerState.OFFLINE or prefix in self._unstored)
        ]

    def live(self, now: float) -> list[Announcement]:
        """What has not expired and is not offline."""
        return [
            last
            for last, expiration in self._by_prefix.values()
            if expiration > now and last.server.state != ServerState.OFFLINE
        ]

    def is_fresh(self, now: float) -> bool:
        return any(expiration > now for _, expiration in self._by_prefix.values())

"""A node of Hivemind's DHT over a host: it answers, joins, stores and finds.

Follows ``hivemind/dht/node.py``, without its caches. What to do is decided in ``kwaainet.dht``.
Rule of the file: a peer that fails costs its call's timeout and nothing else; only ``join`` raises
for what peers do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from typing import Any

from ..dht.answers import Answers
from ..dht.blacklist import Blacklist
from ..dht.guard import Guard
from ..dht.key import DHTID, ID_SIZE
from ..dht.lookup import Lookup, Query
from ..dht.protocol import (
    RPC_FIND,
    RPC_PING,
    RPC_STORE,
    Entry,
    Find,
    Found,
    Ping,
    Pong,
    Store,
    Stored,
    batches,
)
from ..dht.record import Record, StoreItem, Value, alive, merge
from ..dht.replication import Replication
from ..dht.routing_table import BUCKET_SIZE, Neighbour, RoutingTable
from ..dht.storage import Storage
from ..errors import ClockSkew, KwaaiNetError, RemoteError, Unreachable
from ..ports import Clock, Host
from ..types import PeerId
from .handover import Handover

logger = logging.getLogger(__name__)

CALL_TIMEOUT = 3.0  # seconds, Hivemind's wait_timeout
PARALLEL_CALLS = 64  # outgoing calls at once, of all lookups together
UPKEEP_PERIOD = 60.0  # seconds between sweeps of expired records and attempts to rejoin lost peers
STALE_AFTER = 900.0  # seconds after which a bucket is searched that was neither searched nor heard from
MAX_INITIAL = 64  # peers that are asked again when they are lost
FAILURES_TO_FORGET = 2  # calls in a row without an answer; one may be bad luck


class DhtNode:
    """One node. It serves from the moment it is built, unless in ``client_mode``: then it stands in
    nobody's table and keeps no records. ``random_bytes(n)`` must be unpredictable."""

    def __init__(
        self,
        host: Host,
        *,
        now: Clock,
        random_bytes: Callable[[int], bytes],
        client_mode: bool = False,
    ) -> None:
        self.node_id = DHTID.decode(random_bytes(ID_SIZE))
        self.table = RoutingTable(self.node_id, now())
        self.storage = Storage()
        self.guard = Guard()  # of what others store here
        self.keeps_own = False  # what it stores elsewhere too: KwaaiNet's map asks a seed and nobody else
        self.lookups = 0  # begun so far
        self._host = host
        self._now = now
        self._random_bytes = random_bytes
        self._public_id = None if client_mode else self.node_id
        self._answers = Answers(self.node_id, self.table, self.storage, self.guard)
        self._blacklist = Blacklist()
        self._calls = asyncio.Semaphore(PARALLEL_CALLS)
        self._initial_peers: tuple[PeerId, ...] = ()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._handover = Handover(self._answers, self.storage, self._store_at, now)
        self._checking: set[DHTID] = set()
        self._validations: dict[PeerId, asyncio.Task[DHTID | None]] = {}
        if not client_mode:
            host.handle_unary(RPC_PING, self._serve_ping)
            host.handle_unary(RPC_STORE, self._serve_store)
            host.handle_unary(RPC_FIND, self._serve_find)

    # --- use --------------------------------------------------------------------------------------

    async def join(self, initial_peers: Sequence[PeerId]) -> None:
        """Enter the swarm of these peers, or start a new one if there are none.

        At least one must answer and be able to reach us (clients: answer). Raises ``ClockSkew``
        and ``Unreachable`` when none will do.
        """
        peers = tuple(peer for peer in initial_peers if peer != self._host.peer_id)
        outcomes = await asyncio.gather(*map(self._greet, peers))
        failures = [outcome for outcome in outcomes if outcome is not None]
        if failures and len(failures) == len(peers):
            skew = next((failure for failure in failures if isinstance(failure, ClockSkew)), None)
            raise skew or Unreachable(
                f"none of the {len(peers)} initial peers will do; the first one: {failures[0]}"
            )
        self._initial_peers = peers
        await self._nearest([self.node_id])
        self._spawn(self._upkeep())

    async def rejoin(self, peers: Sequence[PeerId]) -> bool:
        """Enter again through peers that are connected now; whether any of them will do. They are asked again
        as those of ``join`` are when the table has lost them."""
        outcomes = await asyncio.gather(*map(self._greet, peers))
        self._initial_peers = tuple(dict.fromkeys((*peers, *self._initial_peers)))[:MAX_INITIAL]
        if None in outcomes:
            await self._nearest([self.node_id])
        return None in outcomes

    async def close(self) -> None:
        """End what runs in the background. The host stays open."""
        tasks = [*self._tasks, *self._validations.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def store(self, key: str, subkey: str | None, value: bytes, expiration: float) -> bool:
        """Store msgpack ``value`` until ``expiration`` (unix seconds) on the nearest nodes; whether
        any of them accepted it. A record that expires later than the one there is accepted."""
        return (await self.store_many([StoreItem(key, subkey, value, expiration)]))[0]

    async def store_many(self, items: Sequence[StoreItem]) -> list[bool]:
        """Like ``store`` for each item, in far fewer calls."""
        entries = [
            Entry(DHTID.of(item.key), Value(item.value, item.expiration), item.subkey) for item in items
        ]
        candidates = await self._nearest(entry.key for entry in entries)
        if self._public_id is not None:
            ourselves = Neighbour(self.node_id, self._host.peer_id)
            for key, nodes in candidates.items():
                nodes.append(ourselves)
                nodes.sort(key=lambda node: key.distance(node.node_id))
        replication = Replication(entries, candidates)
        while round_ := replication.next_round():
            await asyncio.gather(
                *(self._replicate(replication, node, indexes, entries) for node, indexes in round_.items())
            )
        if self.keeps_own:
            for entry in entries:
                self._answers.keep(entry, self._now())
        return replication.accepted

    async def get(self, key: str, latest: bool = True) -> Record | None:
        """The record under ``key``, or ``None``. ``latest``: ask all nodes near the key and unite
        what they have; else whatever is found first."""
        return (await self.get_many([key], latest))[key]

    async def get_many(self, keys: Collection[str], latest: bool = True) -> dict[str, Record | None]:
        """Like ``get`` for each key, in far fewer calls."""
        ids = {key: DHTID.of(key) for key in keys}
        found: dict[DHTID, Record | None] = {
            key_id: self.storage.get(key_id, self._now()) for key_id in ids.values()
        }
        lookup = self._lookup(key_id for key_id, record in found.items() if latest or record is None)

        def use(key: DHTID, record: Record | None) -> None:
            found[key] = merge(found[key], alive(record, self._now()))
            if found[key] is not None and not latest:
                lookup.stop(key)

        await self._run(lookup, use)
        return {key: alive(found[key_id], self._now()) for key, key_id in ids.items()}

    # --- searching and storing --------------------------------------------------------------------

    async def _nearest(self, keys: Iterable[DHTID]) -> dict[DHTID, list[Neighbour]]:
        wanted = list(dict.fromkeys(keys))
        lookup = self._lookup(wanted)
        await self._run(lookup, lambda key, record: None)
        return {key: lookup.nearest(key) for key in wanted}

    def _lookup(self, keys: Iterable[DHTID]) -> Lookup:
        wanted = list(keys)
        for key in wanted:
            self.table.searched(key, self._now())
        start = [node for key in wanted for node in self.table.nearest(key, BUCKET_SIZE)]
        return Lookup(wanted, dict.fromkeys(start), self.node_id)

    async def _run(self, lookup: Lookup, use: Callable[[DHTID, Record | None], None]) -> None:
        """Drive a lookup to its end and show each record met on the way to ``use``."""
        self.lookups += 1
        under_way: dict[asyncio.Task[Found | None], Query] = {}
        try:
            while not lookup.done:
                while (query := lookup.next_query()) is not None:
                    if self._blacklist.is_banned(query.node.peer_id, self._now()):
                        lookup.fail(query)
                    else:
                        under_way[asyncio.create_task(self._find(query))] = query
                if not under_way:
                    break
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in under_way if task.done()]:
                    self._take(lookup, under_way.pop(task), task.result(), use)
        finally:
            for task in under_way:
                task.cancel()

    def _take(
        self,
        lookup: Lookup,
        query: Query,
        found: Found | None,
        use: Callable[[DHTID, Record | None], None],
    ) -> None:
        if found is None:
            lookup.fail(query)
            return
        results = dict(zip(query.keys, found.results, strict=True))
        lookup.answer(query, {key: result.nearest for key, result in results.items()})
        for key, result in results.items():
            use(key, result.record)

    async def _find(self, query: Query) -> Found | None:
        """The node's answer, or ``None`` if there is none worth having."""
        request = Find(self._public_id, query.keys).encode()
        reply = await self._ask(query.node, RPC_FIND, request)
        try:
            found = None if reply is None else Found.decode(reply, len(query.keys))
        except RemoteError as error:
            logger.debug("%s answers a find wrongly: %s", query.node.peer_id, error)
            return None
        if found is not None and found.node_id != query.node.node_id:
            self.table.remove(query.node.node_id)  # another node lives there now
            return None
        return found

    async def _replicate(
        self, replication: Replication, node: Neighbour, indexes: Sequence[int], entries: Sequence[Entry]
    ) -> None:
        accepted = await self._store_at(node, [entries[index] for index in indexes])
        if accepted is None:
            replication.fail(node)
        else:
            replication.answer(indexes, accepted)

    async def _store_at(self, node: Neighbour, entries: Sequence[Entry]) -> list[bool] | None:
        """For each entry whether the node accepted it; ``None`` if it did not answer."""
        if node.node_id == self.node_id:
            return [self._answers.keep(entry, self._now()) for entry in entries]
        accepted: list[bool] = []
        for batch in batches(entries):
            reply = await self._ask(node, RPC_STORE, Store(self._public_id, batch).encode())
            if reply is None:
                return None
            try:
                accepted.extend(Stored.decode(reply, len(batch)).accepted)
            except RemoteError as error:
                logger.debug("%s answers a store wrongly: %s", node.peer_id, error)
                return None
        return accepted

    # --- calling ----------------------------------------------------------------------------------

    async def _ask(self, node: Neighbour, rpc: str, request: bytes) -> bytes | None:
        """The reply of a node of the table's kind, with the table and blacklist kept up."""
        try:
            reply = await self._call(node.peer_id, rpc, request)
        except (RemoteError, TimeoutError) as error:
            logger.debug("%s of %s failed: %r", rpc, node.peer_id, error)
            failures = self._blacklist.fail(node.peer_id, self._now())
            if failures >= FAILURES_TO_FORGET or isinstance(error, Unreachable):
                self.table.remove(node.node_id)
            return None
        self._blacklist.succeed(node.peer_id)
        self._met(node)
        return reply

    async def _call(self, peer: PeerId, rpc: str, request: bytes) -> bytes:
        async with self._calls:
            return await self._host.call(peer, rpc, request, timeout=CALL_TIMEOUT)

    async def _ping(self, peer: PeerId, *, validate: bool = False) -> Pong:
        return Pong.decode(await self._call(peer, RPC_PING, Ping(self._public_id, validate).encode()))

    async def _greet(self, peer: PeerId) -> Exception | None:
        """Ping an initial peer; what speaks against joining through it."""
        sent = self._now()
        try:
            pong = await self._ping(peer, validate=self._public_id is not None)
            pong.check_clock(sent, self._now())
            if pong.node_id is None:
                raise Unreachable(f"{peer} is a client of the DHT; give a full node")
            if self._public_id is not None and not pong.available:
                raise Unreachable(f"{peer} cannot call us back; check our addresses or join as a client")
        except TimeoutError:
            return Unreachable(f"{peer} gave no answer within {CALL_TIMEOUT:g} s")
        except RemoteError as error:
            return error
        self._blacklist.succeed(peer)
        self._met(Neighbour(pong.node_id, peer))
        return None

    def _met(self, node: Neighbour) -> None:
        """A node was heard of from itself."""
        if self._public_id is not None and self.table.id_of(node.peer_id) is None and len(self.storage):
            self._spawn(self._handover.give(node))
        doubtful = self.table.add(node.node_id, node.peer_id, self._now())
        if doubtful is not None and doubtful.node_id not in self._checking:
            self._checking.add(doubtful.node_id)
            self._spawn(self._check(doubtful))

    async def _check(self, node: Neighbour) -> None:
        """Remove a node from the table unless it still answers under its id."""
        try:
            found = (await self._ping(node.peer_id)).node_id
        except (RemoteError, TimeoutError):
            found = None
        finally:
            self._checking.discard(node.node_id)
        if found == node.node_id:
            self._met(node)
        else:
            self.table.remove(node.node_id)

    # --- serving ----------------------------------------------------------------------------------

    async def _serve_ping(self, peer: PeerId, data: bytes) -> bytes:
        request = Ping.decode(data)
        available = False
        if request.node_id is not None:
            if request.validate:
                available = await self._reaches(peer, request.node_id)
            if available or not request.validate:
                self._met(Neighbour(request.node_id, peer))
        return Pong(self.node_id, self._now(), available).encode()

    async def _reaches(self, peer: PeerId, node_id: DHTID) -> bool:
        """Ping back, once for all that a peer asks meanwhile."""
        asking = self._validations.get(peer)
        if asking is None:
            asking = self._validations[peer] = asyncio.ensure_future(self._node_at(peer))
            asking.add_done_callback(lambda done: self._validations.pop(peer))
        return await asyncio.shield(asking) == node_id

    async def _node_at(self, peer: PeerId) -> DHTID | None:
        """Who answers there now. Not one of ``_calls``: strangers must not take the places of our own."""
        request = Ping(self._public_id, validate=False).encode()
        try:
            return Pong.decode(await self._host.call(peer, RPC_PING, request, timeout=CALL_TIMEOUT)).node_id
        except (RemoteError, TimeoutError):
            return None

    async def _serve_store(self, peer: PeerId, data: bytes) -> bytes:
        try:
            request = Store.decode(data)
        except KwaaiNetError:
            self.guard.refused["malformed"] += 1
            raise
        self._heard_from(peer, request.node_id)
        return self._answers.store(request, self._now(), peer).encode()

    async def _serve_find(self, peer: PeerId, data: bytes) -> bytes:
        request = Find.decode(data)
        self._heard_from(peer, request.node_id)
        return self._answers.find(request, self._now()).encode()

    def _heard_from(self, peer: PeerId, node_id: DHTID | None) -> None:
        if node_id is not None:
            self._met(Neighbour(node_id, peer))

    # --- upkeep -----------------------------------------------------------------------------------

    async def _upkeep(self) -> None:
        while True:
            await asyncio.sleep(UPKEEP_PERIOD)
            self.storage.expire(self._now())
            self.guard.expire(self._now())
            lost = [peer for peer in self._initial_peers if self.table.id_of(peer) is None]
            outcomes = await asyncio.gather(*map(self._greet, lost))
            stale = self.table.stale(self._now() - STALE_AFTER)
            targets = [DHTID(lower + self._random_number() % (upper - lower)) for lower, upper in stale]
            if None in outcomes:
                targets.append(self.node_id)
            await self._nearest(targets)

    def _random_number(self) -> int:
        return int.from_bytes(self._random_bytes(ID_SIZE), "big")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and task.exception() is not None:
            logger.error("a background task of the DHT node failed", exc_info=task.exception())

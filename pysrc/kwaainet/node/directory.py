"""How a model's servers are read: through a DHT node of our own, or through the relay's.

Both ends of ``RelayProtocol.rpc_read_servers`` (see ``swarm.directory``). Rule of the file: what many
ask for at the same moment is looked up once, and nobody can make the relay look up more than stated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

from ..dht.record import Dictionary, Record
from ..errors import CapacityError
from ..ports import Clock, Host
from ..swarm import blocks
from ..swarm.directory import PROTOCOL, Entry, Query, collect, decode_reply, encode_reply, spread
from ..swarm.server_info import ServerInfo
from ..types import BlockRange, PeerId
from .rate_limit import RateLimit

MAX_PER_MINUTE = 60  # reads of one peer: a client that loses a hop every second may still read
MAX_PEERS = 4096  # peers whose reads one relay counts
MAX_LOOKUPS = 64  # different lookups at a time, the fresh results included
FRESH = 1.0  # seconds for which a lookup's result is given to others too
READ_TIMEOUT = 10.0  # seconds a tab waits for its relay

ReadServers = Callable[[str, int], Awaitable[Sequence[Mapping[PeerId, ServerInfo]]]]


class RecordSource(Protocol):
    """The part of a DHT node that reading needs."""

    async def get_many(self, keys: Collection[str], latest: bool = True) -> dict[str, Record | None]:
        """The record under each key, or ``None``."""


def dht_reader(dht: RecordSource) -> ReadServers:
    """Reads the records of a model's blocks 0 to n through a DHT node."""

    async def read(prefix: str, num_blocks: int) -> list[dict[PeerId, ServerInfo]]:
        asked = BlockRange(0, num_blocks)
        return spread(await look_up(dht, Query(prefix, asked)), asked)

    return read


def directory_reader(
    host: Host, relay: PeerId | Callable[[], PeerId], *, timeout: float = READ_TIMEOUT
) -> ReadServers:
    """Reads them through the relay (which may change with time); for a tab, which can dial no node of the
    DHT.

    Reading raises what ``Host.call`` raises, and ``ProtocolError`` for a reply that is none. The
    relay is believed about who serves, as any node of the DHT is: its records are not signed.
    """

    async def read(prefix: str, num_blocks: int) -> list[dict[PeerId, ServerInfo]]:
        asked = BlockRange(0, num_blocks)
        through = relay() if callable(relay) else relay
        reply = await host.call(through, PROTOCOL, Query(prefix, asked).encode(), timeout=timeout)
        return spread(decode_reply(reply, asked), asked)

    return read


async def look_up(dht: RecordSource, query: Query) -> list[Entry]:
    """The servers that the DHT names for these blocks."""
    keys = [blocks.uid(query.prefix, block) for block in range(query.blocks.start, query.blocks.end)]
    found = await dht.get_many(keys)
    return collect((_pairs(found[key]) for key in keys), query.blocks.start)


def _pairs(record: Record | None) -> list[tuple[object, bytes]]:
    if not isinstance(record, Dictionary):
        return []
    return [(subkey, value.data) for subkey, value in record.entries.items()]


class DirectoryHandler:
    """The relay's end: looks up for its peers what they cannot look up themselves."""

    def __init__(self, host: Host, dht: RecordSource, now: Clock) -> None:
        self._dht, self._now = dht, now
        self._lookups: dict[Query, tuple[float, asyncio.Task[bytes]]] = {}
        self._running: set[asyncio.Task[bytes]] = set()  # those whose results are old before they come, too
        self._rate = RateLimit("reads of the swarm", MAX_PER_MINUTE, MAX_PEERS)
        host.handle_unary(PROTOCOL, self.rpc_read_servers)

    def changed(self, prefix: str) -> None:
        """A server of the model was announced here: who asks from now on hears of it."""
        self._lookups = {query: found for query, found in self._lookups.items() if query.prefix != prefix}

    async def rpc_read_servers(self, peer: PeerId, request: bytes) -> bytes:
        """The servers of a range of blocks, as the DHT has them now (or had them ``FRESH`` s ago, unless one
        has been announced here since)."""
        query = Query.decode(request)
        now = self._now()
        self._rate.count(peer, now)
        return await asyncio.shield(self._lookup(query, now))

    def _lookup(self, query: Query, now: float) -> asyncio.Task[bytes]:
        self._lookups = {
            one: (since, task)
            for one, (since, task) in self._lookups.items()
            if not task.done() or since > now - FRESH
        }
        if query not in self._lookups:
            if max(len(self._lookups), len(self._running)) >= MAX_LOOKUPS:
                raise CapacityError(f"{MAX_LOOKUPS} lookups are under way at this relay; try again")
            task = asyncio.ensure_future(self._look_up(query))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            self._lookups[query] = now, task
        return self._lookups[query][1]

    async def _look_up(self, query: Query) -> bytes:
        return encode_reply(await look_up(self._dht, query))

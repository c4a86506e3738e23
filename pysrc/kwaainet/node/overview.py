"""The whole swarm for people to look at: every model the DHT names, who serves which of its blocks, and the
chain that a request could take.

Rule of the file: records are anybody's word, so what is read and told of them is bounded; however many
look, the DHT is read at most every ``FRESH`` seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..dht.record import Dictionary
from ..errors import KwaaiNetError, Unreachable
from ..ports import Clock
from ..swarm.blocks import check_prefix
from ..swarm.coverage import is_gateway
from ..swarm.directory import Entry, Query, ranges
from ..swarm.routing import Candidate, Hop, min_latency
from ..swarm.server_info import MODELS_KEY, ModelInfo
from ..types import BlockRange, PeerId, ServerState
from .directory import RecordSource, look_up

FRESH = 5.0  # seconds for which a reading is shown to others, too
MAX_MODELS = 8  # told, those offered here first
MAX_BLOCKS = 2048  # read of all models together
MAX_SERVERS = 256  # told of one model; the others are counted
MAX_CANDIDATES = 64  # of a route


@dataclass(frozen=True, slots=True)
class ServerView:
    """Consecutive blocks that one server announces, and as what. A gateway only forwards: it holds none."""

    peer: PeerId
    blocks: BlockRange
    state: ServerState
    gateway: bool
    public_name: str


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model. ``counts``: servers ONLINE that hold each block. ``route``: a chain over all blocks, as a
    client that has measured nothing would choose it; empty where a block has no server. ``more``: servers
    that are not told."""

    prefix: str
    num_blocks: int
    offered: bool
    counts: Sequence[int]
    servers: Sequence[ServerView]
    more: int
    route: Sequence[Hop]


class Overview:
    """Reads it through a DHT node. ``offered``: blocks of the models that are offered here."""

    def __init__(self, dht: RecordSource, offered: Mapping[str, int], now: Clock) -> None:
        self._dht, self._offered, self._now = dht, offered, now
        self._read_at = -FRESH
        self._reading: asyncio.Task[list[ModelView]] | None = None

    async def read(self) -> list[ModelView]:
        """As it is now, or was ``FRESH`` seconds ago; whoever asks meanwhile waits for the same reading."""
        reading = self._reading
        failed = reading is not None and reading.done() and (reading.cancelled() or reading.exception())
        if reading is None or failed or (reading.done() and self._now() >= self._read_at + FRESH):
            self._read_at = self._now()
            reading = self._reading = asyncio.ensure_future(self._read())
        return await asyncio.shield(reading)

    async def _read(self) -> list[ModelView]:
        named = (await self._dht.get_many([MODELS_KEY]))[MODELS_KEY]
        others = dict(_models(named)) if isinstance(named, Dictionary) else {}
        models = [*self._offered.items(), *(pair for pair in others.items() if pair[0] not in self._offered)]
        views: list[ModelView] = []
        left = MAX_BLOCKS
        for prefix, num_blocks in models:
            left -= num_blocks
            if left < 0 or len(views) == MAX_MODELS:
                break
            view = await self._view(prefix, num_blocks)
            if view.offered or view.servers:
                views.append(view)
        return views

    async def _view(self, prefix: str, num_blocks: int) -> ModelView:
        entries = await look_up(self._dht, Query(prefix, BlockRange(0, num_blocks)))
        servers = [server for entry in entries for server in _servers(entry)]
        holding = [one for one in servers if one.state == ServerState.ONLINE and not one.gateway]
        counts = [sum(block in one.blocks for one in holding) for block in range(num_blocks)]
        servers.sort(key=lambda one: (one.blocks.start, -len(one.blocks), one.peer))
        told = servers[:MAX_SERVERS]
        candidates = [
            Candidate(entry.peer, blocks, entry.info.inference_rps, throughput=entry.info.throughput)
            for entry in entries
            if entry.info.state == ServerState.ONLINE and not is_gateway(entry.info)
            for blocks in _spans(entry)
        ]
        route = _route(candidates[:MAX_CANDIDATES], num_blocks)
        offered = prefix in self._offered
        return ModelView(prefix, num_blocks, offered, counts, told, len(servers) - len(told), route)


def _models(named: Dictionary) -> Iterator[tuple[str, int]]:
    for prefix, value in named.entries.items():
        try:
            yield check_prefix(str(prefix)), ModelInfo.decode(value.data).num_blocks
        except KwaaiNetError:
            continue  # anybody may store anything there


def _spans(entry: Entry) -> list[BlockRange]:
    return [BlockRange(start, end) for start, end in ranges(entry.blocks)]


def _servers(entry: Entry) -> Iterator[ServerView]:
    info = entry.info
    for blocks in _spans(entry):
        yield ServerView(entry.peer, blocks, info.state, is_gateway(info), info.public_name or "")


def _route(candidates: Sequence[Candidate], num_blocks: int) -> list[Hop]:
    try:
        return min_latency(candidates, BlockRange(0, num_blocks))
    except Unreachable:
        return []

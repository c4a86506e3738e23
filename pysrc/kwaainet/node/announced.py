"""Which peers the DHT names as servers now.

The records of blocks that our own storage holds answer for most; for the rest all blocks of all models
under ``_petals.models`` are read, at most every ``READ_AGAIN`` seconds. Rule of the file: records
are anybody's word, so reading them is bounded whatever they say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from ..dht.record import Dictionary
from ..errors import KwaaiNetError
from ..ports import Clock
from ..swarm import blocks
from ..swarm.directory import collect
from ..swarm.server_info import MODELS_KEY, ModelInfo, ServerInfo
from ..types import PeerId, ServerState
from .dht import DhtNode

READ_AGAIN = 15.0  # seconds between two readings of the whole swarm
MAX_MODELS = 64
MAX_KEYS = 2048  # blocks of all models together
MAX_SERVERS = 16_384  # peers remembered from one reading


class AnnouncedServers:
    """The servers that are ONLINE, as our DHT node sees them."""

    def __init__(self, dht: DhtNode, now: Clock) -> None:
        self._dht, self._now = dht, now
        self._read: dict[PeerId, ServerInfo] = {}
        self._read_at: float | None = None
        self._reading: asyncio.Task[None] | None = None

    async def find(self, peer: PeerId) -> ServerInfo | None:
        """What an ONLINE server says of itself; ``None`` if nobody announces the peer."""
        here = next(self._in_storage(peer), None)
        if here is not None:
            return here
        if self._read_at is None or abs(self._now() - self._read_at) >= READ_AGAIN:  # a clock may be set back
            await self._read_once()
        return self._read.get(peer)

    def _in_storage(self, peer: PeerId) -> Iterator[ServerInfo]:
        subkey = str(peer)
        for value in self._dht.storage.values_of(subkey, self._now()):
            yield from (info for _, info in _online([(subkey, value.data)]))

    async def _read_once(self) -> None:
        """Read the swarm; whoever asks meanwhile waits for the same reading."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read_all())
            self._reading.add_done_callback(self._done)
        await asyncio.shield(self._reading)

    def _done(self, reading: asyncio.Task[None]) -> None:
        self._reading = None

    async def _read_all(self) -> None:
        models = await self._dht.get(MODELS_KEY)
        keys = list(_keys(models))[:MAX_KEYS] if isinstance(models, Dictionary) else []
        found: dict[PeerId, ServerInfo] = {}
        for record in (await self._dht.get_many(keys)).values():
            if isinstance(record, Dictionary):
                found.update(_online((subkey, value.data) for subkey, value in record.entries.items()))
            if len(found) >= MAX_SERVERS:
                break
        self._read, self._read_at = found, self._now()


def _keys(models: Dictionary) -> Iterator[str]:
    for prefix, value in list(models.entries.items())[:MAX_MODELS]:
        try:
            checked = blocks.check_prefix(prefix) if isinstance(prefix, str) else ""
            number = ModelInfo.decode(value.data).num_blocks if checked else 0
        except KwaaiNetError:
            continue
        yield from (blocks.uid(checked, block) for block in range(number))


def _online(pairs: Iterable[tuple[object, bytes]]) -> Iterator[tuple[PeerId, ServerInfo]]:
    for entry in collect([pairs], 0):
        if entry.info.state == ServerState.ONLINE:
            yield entry.peer, entry.info

"""How the tabs of a relay show in the DHT: themselves, through the relay's gateway, or both.

A stock client takes any server that it finds under the model's keys, so whoever is to go through the
gateway must not find the tabs there. Rule of the file: hidden records never reach a DHT node; what
reads for the relay's own peers sees them as if they had.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from ..dht.key import DHTID
from ..dht.record import Record, StoreItem, Value, merge
from ..dht.storage import Storage
from ..errors import KwaaiNetError
from ..ports import Clock
from ..swarm import blocks
from ..swarm.announcement import Announcement
from ..swarm.server_info import MODELS_KEY, ServerInfo
from ..types import PeerId
from .announce import RecordStore
from .directory import ReadServers, RecordSource


class Exposure(StrEnum):
    """What stock clients find of the tabs that serve one model."""

    DIRECT = "direct"  # the tabs; encrypted from the client to the tab
    GATEWAY = "gateway"  # the relay's gateway only
    BOTH = "both"


class Records(RecordStore, RecordSource, Protocol):
    """What a DHT node stores and finds."""


class HiddenRecords:
    """Keeps the records of hidden models here and those of others in ``dht``; reads both as one."""

    def __init__(self, dht: Records, hidden: Collection[str], now: Clock) -> None:
        self._dht, self._hidden, self._now = dht, frozenset(hidden), now
        self._kept = Storage()

    async def store_many(self, items: Sequence[StoreItem]) -> list[bool]:
        """See ``RecordStore``."""
        shown = [item for item in items if not self._is_hidden(item)]
        accepted = iter(await self._dht.store_many(shown) if shown else [])
        return [self._keep(item) if self._is_hidden(item) else next(accepted) for item in items]

    async def get_many(self, keys: Collection[str], latest: bool = True) -> dict[str, Record | None]:
        """See ``RecordSource``."""
        found = await self._dht.get_many(keys, latest)
        now = self._now()
        return {key: merge(found[key], self._kept.get(DHTID.of(key), now)) for key in keys}

    def _keep(self, item: StoreItem) -> bool:
        value = Value(item.value, item.expiration)
        return self._kept.store_subkey(DHTID.of(item.key), item.subkey, value, self._now())

    def _is_hidden(self, item: StoreItem) -> bool:
        if item.key == MODELS_KEY:
            return item.subkey in self._hidden
        try:
            return blocks.split(item.key)[0] in self._hidden
        except KwaaiNetError:
            return False


def announced_reader(announced: Callable[[], Mapping[PeerId, Sequence[Announcement]]]) -> ReadServers:
    """Reads the servers that a relay announces itself (``AnnounceHandler.announced``), hidden or not."""

    async def read(prefix: str, num_blocks: int) -> list[dict[PeerId, ServerInfo]]:
        records: list[dict[PeerId, ServerInfo]] = [{} for _ in range(num_blocks)]
        for peer, announcements in announced().items():
            for announcement in announcements:
                span = announcement.span
                if announcement.prefix == prefix:
                    for block in range(span.start, min(span.end, num_blocks)):
                        records[block][peer] = announcement.server
        return records

    return read

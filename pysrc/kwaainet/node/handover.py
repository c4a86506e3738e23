"""Giving a newcomer of the DHT the records that it should have.

Follows ``update_routing_table`` of ``hivemind/dht/protocol.py``. Rule of the file: what one newcomer takes of
our time and of the network is bounded; what it does not get reaches it when it is announced again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ..dht.answers import Answers
from ..dht.protocol import Entry
from ..dht.routing_table import Neighbour
from ..dht.storage import Storage
from ..ports import Clock

MAX_HANDOVER = 1024  # records given to one newcomer
MAX_NEWCOMERS = 16  # given records at the same time; the others go without
_SCANNED_AT_ONCE = 256  # records looked at for a newcomer before others get a turn: 10 ms

StoreAt = Callable[[Neighbour, Sequence[Entry]], Awaitable[object]]


class Handover:
    """Of one node; ``store_at`` sends entries to another."""

    def __init__(self, answers: Answers, storage: Storage, store_at: StoreAt, now: Clock) -> None:
        self._answers, self._storage, self._store_at, self._now = answers, storage, store_at, now
        self._newcomers = 0

    async def give(self, node: Neighbour) -> None:
        """Give a newcomer the records it should have."""
        if self._newcomers >= MAX_NEWCOMERS:
            return
        self._newcomers += 1
        try:
            keys, entries = self._storage.keys(), list[Entry]()
            for start in range(0, len(keys), _SCANNED_AT_ONCE):
                part = keys[start : start + _SCANNED_AT_ONCE]
                entries += self._answers.handover(node.node_id, part, self._now())
                if len(entries) >= MAX_HANDOVER:
                    break
                await asyncio.sleep(0)
            await self._store_at(node, entries[:MAX_HANDOVER])
        finally:
            self._newcomers -= 1

"""What a full node answers, from its table and its storage.

Follows the ``rpc_`` methods and ``update_routing_table`` of ``hivemind/dht/protocol.py``.
Rule of the file: decoded request in, reply to be encoded out; nothing waits.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..types import PeerId
from .guard import Guard
from .key import DHTID
from .protocol import Entry, Find, Found, Result, Store, Stored
from .record import Dictionary, Subkey, Value
from .replication import REPLICAS
from .routing_table import BUCKET_SIZE, Neighbour, RoutingTable
from .storage import Storage


class Answers:
    """Of the node ``node_id``; ``now`` is unix seconds. ``guard`` says what others may store."""

    def __init__(
        self, node_id: DHTID, table: RoutingTable, storage: Storage, guard: Guard | None = None
    ) -> None:
        self._node_id = node_id
        self._table = table
        self._storage = storage
        self._guard = guard or Guard()

    def store(self, request: Store, now: float, sender: PeerId | None = None) -> Stored:
        accepted = tuple(entry is not None and self.keep(entry, now, sender) for entry in request.entries)
        return Stored(self._node_id, accepted)

    def find(self, request: Find, now: float) -> Found:
        records = {key: self._storage.get(key, now) for key in set(request.keys)}
        results = []
        for key in request.keys:
            nearest = self._table.nearest(key, BUCKET_SIZE, exclude=request.node_id)
            results.append(Result(records[key], tuple(nearest)))
        return Found(self._node_id, tuple(results))

    def keep(self, entry: Entry, now: float, sender: PeerId | None = None) -> bool:
        """Store one record here; whether it was accepted (a dictionary: all of it); no ``sender``: ours."""
        key, record = entry.key, entry.record
        if isinstance(record, Dictionary):
            kept = [self._keep(key, *item, now, sender) for item in record.entries.items()]
            return all(kept)
        assert isinstance(record, Value)
        return self._keep(key, entry.subkey, record, now, sender)

    def _keep(
        self, key: DHTID, subkey: Subkey | None, value: Value, now: float, sender: PeerId | None
    ) -> bool:
        if not self._guard.admits(sender, key, subkey, value, now):
            return False
        if subkey is None:
            return self._storage.store(key, value, now)
        hearsay_yields = self._guard.displaces(sender, key, subkey, now)
        kept = self._storage.store_subkey(key, subkey, value, now, whatever_date=hearsay_yields)
        if kept:
            self._guard.stored(sender, key, subkey, value, now)
        return kept

    def handover(self, newcomer: DHTID, keys: Iterable[DHTID], now: float) -> list[Entry]:
        """Of the records under these keys those that a node we just met should have: it belongs to
        the nearest, and of those that know it should, we are the one to tell it."""
        entries = []
        for key in keys:
            record = self._storage.get(key, now)
            others = self._table.nearest(key, REPLICAS, exclude=newcomer) if record is not None else []
            if record is not None and (not others or self._must_tell(key, newcomer, others)):
                entries.append(Entry(key, record))
        return entries

    def _must_tell(self, key: DHTID, newcomer: DHTID, others: list[Neighbour]) -> bool:
        among_nearest = len(others) < REPLICAS or key.distance(newcomer) < key.distance(others[-1].node_id)
        return among_nearest and key.distance(self._node_id) < key.distance(others[0].node_id)

"""The nodes we know, in k-buckets: many near us, few far away.

Follows ``hivemind/dht/routing.py`` and sections 2.2, 4.1 and 4.2 of the Kademlia paper. It departs
from Hivemind where a stranger could misuse the table: a peer stands in it under one node id only,
nobody takes over another's node id, and waiting lists are as short as buckets.
Rule of the file: knowing is passive; whom to ping is returned, never done.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..types import PeerId
from .key import DHTID, ID_BITS

BUCKET_SIZE = 20  # Kademlia's k
DEPTH_MODULO = 5  # Kademlia's b: buckets far from us split up to the next multiple of this depth


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A node of the DHT and the peer it is reached at."""

    node_id: DHTID
    peer_id: PeerId


@dataclass(slots=True)
class _Bucket:
    """Nodes whose ids share their first ``depth`` bits, least recently seen first."""

    lower: int
    depth: int
    changed: float  # unix seconds at which its range was last searched or heard from
    nodes: dict[DHTID, PeerId] = field(default_factory=dict)
    waiting: dict[DHTID, PeerId] = field(default_factory=dict)  # for a place, latest last
    pinged: dict[DHTID, None] = field(default_factory=dict)  # asked whether they are still there

    @property
    def upper(self) -> int:
        return self.lower + (1 << (ID_BITS - self.depth))

    def distance(self, key: DHTID) -> int:
        """Of its nearest possible id; the distances of two buckets never overlap."""
        bits = ID_BITS - self.depth
        return (self.lower ^ key) >> bits << bits

    def add(self, node_id: DHTID, peer_id: PeerId, size: int) -> bool:
        """Whether there was room; if not the node waits for a place."""
        self.pinged.pop(node_id, None)
        self.waiting.pop(node_id, None)
        if self.nodes.pop(node_id, None) is not None or len(self.nodes) < size:
            self.nodes[node_id] = peer_id
            return True
        self.waiting[node_id] = peer_id
        return False

    def remove(self, node_id: DHTID) -> None:
        self.pinged.pop(node_id, None)
        self.waiting.pop(node_id, None)
        if self.nodes.pop(node_id, None) is not None and self.waiting:
            latest, peer_id = self.waiting.popitem()
            self.nodes[latest] = peer_id

    def oldest_not_pinged(self) -> DHTID | None:
        return next((node_id for node_id in self.nodes if node_id not in self.pinged), None)


class RoutingTable:
    """The table of node ``node_id``, which is never in it itself."""

    def __init__(
        self,
        node_id: DHTID,
        now: float,
        *,
        bucket_size: int = BUCKET_SIZE,
        depth_modulo: int = DEPTH_MODULO,
    ) -> None:
        self.node_id = node_id
        self._bucket_size = bucket_size
        self._depth_modulo = depth_modulo
        self._buckets = [_Bucket(0, 0, now)]
        self._id_of: dict[PeerId, DHTID] = {}

    def __len__(self) -> int:
        return sum(len(bucket.nodes) for bucket in self._buckets)

    def __iter__(self) -> Iterator[Neighbour]:
        for bucket in self._buckets:
            for node_id, peer_id in bucket.nodes.items():
                yield Neighbour(node_id, peer_id)

    def __contains__(self, node_id: DHTID) -> bool:
        """In a bucket or waiting for a place in one."""
        bucket = self._bucket(node_id)
        return node_id in bucket.nodes or node_id in bucket.waiting

    def id_of(self, peer_id: PeerId) -> DHTID | None:
        """The node id under which a peer stands in the table."""
        return self._id_of.get(peer_id)

    def add(self, node_id: DHTID, peer_id: PeerId, now: float) -> Neighbour | None:
        """We heard of a node from itself.

        Returns a node that should be pinged, and removed if it does not answer, to make room (or
        because another peer now claims its id).
        """
        if node_id == self.node_id:
            return None
        bucket = self._bucket(node_id)
        holder = bucket.nodes.get(node_id) or bucket.waiting.get(node_id)
        if holder is not None and holder != peer_id:
            return Neighbour(node_id, holder)
        former = self._id_of.get(peer_id)
        if former is not None and former != node_id:
            self.remove(former)
        return self._place(node_id, peer_id, now)

    def remove(self, node_id: DHTID) -> None:
        """Forget a node; the one that waited last takes its place."""
        bucket = self._bucket(node_id)
        peer_id = bucket.nodes.get(node_id) or bucket.waiting.get(node_id)
        if peer_id is not None:
            bucket.remove(node_id)
            del self._id_of[peer_id]

    def nearest(self, key: DHTID, count: int, *, exclude: DHTID | None = None) -> list[Neighbour]:
        """Up to ``count`` nodes, nearest to ``key`` first."""
        found: list[Neighbour] = []
        for bucket in sorted(self._buckets, key=lambda bucket: bucket.distance(key)):
            for node_id in sorted(bucket.nodes, key=key.distance):
                if node_id != exclude:
                    found.append(Neighbour(node_id, bucket.nodes[node_id]))
            if len(found) >= count:
                break
        return found[:count]

    def searched(self, key: DHTID, now: float) -> None:
        """We searched the DHT for ``key``."""
        self._bucket(key).changed = now

    def stale(self, before: float) -> list[tuple[int, int]]:
        """The ranges [lower, upper) of ids searched for, or heard from, last before ``before``."""
        return [(bucket.lower, bucket.upper) for bucket in self._buckets if bucket.changed < before]

    def _place(self, node_id: DHTID, peer_id: PeerId, now: float) -> Neighbour | None:
        self._id_of[peer_id] = node_id
        bucket = self._bucket(node_id)
        while not bucket.add(node_id, peer_id, self._bucket_size):
            bucket.changed = now
            if not self._may_split(bucket):
                return self._make_room(bucket)
            bucket.waiting.pop(node_id)
            self._split(bucket)
            bucket = self._bucket(node_id)
        bucket.changed = now
        return None

    def _make_room(self, bucket: _Bucket) -> Neighbour | None:
        while len(bucket.waiting) > self._bucket_size:
            given_up = next(iter(bucket.waiting))
            del self._id_of[bucket.waiting.pop(given_up)]
        oldest = bucket.oldest_not_pinged()
        if oldest is None:
            return None
        bucket.pinged[oldest] = None
        return Neighbour(oldest, bucket.nodes[oldest])

    def _may_split(self, bucket: _Bucket) -> bool:
        holds_us = bucket.lower <= self.node_id < bucket.upper
        return bucket.depth < ID_BITS and (holds_us or bucket.depth % self._depth_modulo != 0)

    def _split(self, bucket: _Bucket) -> None:
        depth = bucket.depth + 1
        left = _Bucket(bucket.lower, depth, bucket.changed)
        right = _Bucket(left.upper, depth, bucket.changed)
        for node_id, peer_id in (*bucket.nodes.items(), *bucket.waiting.items()):
            (left if node_id < right.lower else right).add(node_id, peer_id, self._bucket_size)
        index = self._buckets.index(bucket)
        self._buckets[index : index + 1] = [left, right]

    def _bucket(self, node_id: DHTID) -> _Bucket:
        return self._buckets[bisect_right(self._buckets, int(node_id), key=lambda bucket: bucket.lower) - 1]

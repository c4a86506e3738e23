"""Which nodes get a record: the nearest that take it, as a machine.

Follows ``store_many`` of ``hivemind/dht/node.py``; records for the same node travel together.
Rule of the file: for each part of a round ``answer`` or ``fail`` must follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .key import DHTID
from .protocol import Entry
from .routing_table import Neighbour

REPLICAS = 5  # nodes that keep a record, Hivemind's num_replicas


class Replication:
    """Places ``entries`` on their nearest nodes; ``candidates``: those of each key, nearest first."""

    def __init__(
        self,
        entries: Sequence[Entry],
        candidates: Mapping[DHTID, Sequence[Neighbour]],
        *,
        replicas: int = REPLICAS,
    ) -> None:
        self.accepted = [False] * len(entries)  # by at least one node
        self._entries = entries
        self._untried = {key: list(candidates.get(key, ())) for key in {entry.key: None for entry in entries}}
        self._missing = dict.fromkeys(self._untried, replicas)
        self._failed: dict[DHTID, None] = {}

    def next_round(self) -> dict[Neighbour, tuple[int, ...]]:
        """Node -> indexes of the entries to send to it; empty when all is done or tried."""
        chosen: dict[Neighbour, dict[DHTID, None]] = {}
        for key in self._untried:
            for node in self._take(key):
                chosen.setdefault(node, {})[key] = None
        return {
            node: tuple(index for index, entry in enumerate(self._entries) if entry.key in keys)
            for node, keys in chosen.items()
        }

    def answer(self, indexes: Sequence[int], accepted: Sequence[bool]) -> None:
        """A node has answered for these entries; a newer record of its own is an answer too."""
        for index, is_accepted in zip(indexes, accepted, strict=True):
            self.accepted[index] |= is_accepted
        for key in {self._entries[index].key: None for index in indexes}:
            self._missing[key] -= 1

    def fail(self, node: Neighbour) -> None:
        """A node did not answer; others take its place in the next round."""
        self._failed[node.node_id] = None

    def _take(self, key: DHTID) -> list[Neighbour]:
        usable = [node for node in self._untried[key] if node.node_id not in self._failed]
        wanted = max(self._missing[key], 0)
        self._untried[key] = usable[wanted:]
        return usable[:wanted]

"""The iterative search for the nodes nearest to one or several keys, as a machine.

Follows the Kademlia paper, section 2.3, with the batching of ``hivemind/dht/traverse.py``: a node
asked about one key is asked about others it may know of in the same request. Unlike Hivemind's, the
search counts only nodes that answered among the nearest, so that a store goes to living ones.
Rule of the file: ``next_query`` says whom to ask, ``answer`` or ``fail`` must follow for each query.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from ..errors import UsageError
from .key import DHTID
from .routing_table import BUCKET_SIZE, Neighbour

PARALLEL = 8  # queries under way at once; a dead node holds one up for 3 s
KEYS_PER_QUERY = 16  # Hivemind's chunk_size
MAX_QUERIES_PER_KEY = 100  # nodes asked about one key before giving up: a liar can always name nearer ones


@dataclass(frozen=True, slots=True)
class Query:
    """Ask ``node`` about ``keys``."""

    node: Neighbour
    keys: tuple[DHTID, ...]


class _State(Enum):
    KNOWN = 1
    ASKED = 2
    ANSWERED = 3
    FAILED = 4


class _Search:
    """One key's candidates, nearest first."""

    def __init__(self, key: DHTID, beam: int) -> None:
        self.key = key
        self.stopped = False
        self._beam = beam
        self._asked = 0
        self.in_flight = 0
        self._order: list[tuple[int, DHTID]] = []
        self._state: dict[DHTID, _State] = {}

    def learn(self, node_id: DHTID) -> None:
        if node_id not in self._state:
            self._state[node_id] = _State.KNOWN
            insort(self._order, (self.key.distance(node_id), node_id))

    def set(self, node_id: DHTID, state: _State) -> None:
        if node_id in self._state:
            self._asked += state is _State.ASKED
            self.in_flight += (state is _State.ASKED) - (self._state[node_id] is _State.ASKED)
            self._state[node_id] = state

    def window(self) -> list[DHTID]:
        """The nearest nodes that have not failed, as many as the beam is wide."""
        living = (node_id for _, node_id in self._order if self._state[node_id] is not _State.FAILED)
        return list(islice(living, self._beam))

    def open(self) -> list[DHTID]:
        """The nodes still to be asked, nearest first."""
        if self.stopped or self._asked >= MAX_QUERIES_PER_KEY:
            return []
        return [node_id for node_id in self.window() if self._state[node_id] is _State.KNOWN]

    def waits(self) -> bool:
        return not self.stopped and any(self._state[n] is _State.ASKED for n in self.window())

    def answered(self) -> list[DHTID]:
        return [node_id for _, node_id in self._order if self._state[node_id] is _State.ANSWERED]


class Lookup:
    """Finds the ``beam`` nearest answering nodes of each key.

    ``start``: nodes to begin with, those of our table nearest to the keys. ``own_id`` is never
    asked. A node that fails for one key is asked about no other.
    """

    def __init__(
        self,
        keys: Iterable[DHTID],
        start: Iterable[Neighbour],
        own_id: DHTID,
        *,
        beam: int = BUCKET_SIZE,
        parallel: int = PARALLEL,
    ) -> None:
        self._searches = {key: _Search(key, beam) for key in keys}
        self._nodes: dict[DHTID, Neighbour] = {}
        self._own_id = own_id
        self._parallel = parallel
        self._under_way: dict[DHTID, Query] = {}
        self._failed: dict[DHTID, None] = {}
        for search in self._searches.values():
            self._learn(search, start)

    @property
    def done(self) -> bool:
        """Each key is stopped, or its nearest nodes have all answered."""
        return not any(search.open() or search.waits() for search in self._searches.values())

    def next_query(self) -> Query | None:
        """Whom to ask now; ``None`` until the next answer, or for good once ``done``."""
        if len(self._under_way) >= self._parallel:
            return None
        open_nodes = {key: self._open(search) for key, search in self._searches.items()}
        candidates = [key for key, nodes in open_nodes.items() if nodes]
        if not candidates:
            return None
        key = min(candidates, key=lambda key: self._searches[key].in_flight)
        node_id = open_nodes[key][0]
        others = [other for other in candidates if other != key and node_id in open_nodes[other]]
        keys = (key, *sorted(others, key=node_id.distance)[: KEYS_PER_QUERY - 1])
        for asked in keys:
            self._searches[asked].set(node_id, _State.ASKED)
        query = self._under_way[node_id] = Query(self._nodes[node_id], keys)
        return query

    def answer(self, query: Query, nearest: Mapping[DHTID, Sequence[Neighbour]]) -> None:
        """The node answered, for each key with the nodes nearest to it that it knows."""
        self._finish(query, _State.ANSWERED)
        for key in query.keys:
            self._learn(self._searches[key], nearest.get(key, ()))

    def fail(self, query: Query) -> None:
        """The node did not answer."""
        self._finish(query, _State.FAILED)
        self._failed[query.node.node_id] = None
        for search in self._searches.values():
            search.set(query.node.node_id, _State.FAILED)

    def stop(self, key: DHTID) -> None:
        """No more about this key: what was wanted is found."""
        self._searches[key].stopped = True

    def nearest(self, key: DHTID) -> list[Neighbour]:
        """The nodes that answered, nearest to ``key`` first."""
        return [self._nodes[node_id] for node_id in self._searches[key].answered()]

    def _open(self, search: _Search) -> list[DHTID]:
        return [node_id for node_id in search.open() if node_id not in self._under_way]

    def _learn(self, search: _Search, nodes: Iterable[Neighbour]) -> None:
        for node in nodes:
            if node.node_id == self._own_id or node.node_id in self._failed:
                continue
            if self._nodes.setdefault(node.node_id, node) == node:
                search.learn(node.node_id)

    def _finish(self, query: Query, state: _State) -> None:
        if self._under_way.pop(query.node.node_id, None) is not query:
            raise UsageError(f"no query to {query.node.node_id!r} is under way")
        for key in query.keys:
            self._searches[key].set(query.node.node_id, state)

"""The search machine, on networks that are only dictionaries."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaainet.dht import lookup
from kwaainet.dht.key import DHTID, ID_BITS
from kwaainet.dht.lookup import KEYS_PER_QUERY, Lookup, Query
from kwaainet.dht.routing_table import Neighbour
from kwaainet.errors import UsageError
from kwaainet.types import PeerId

OWN = DHTID(0)
KEY = DHTID(1 << 100)


def node(node_id: int) -> Neighbour:
    return Neighbour(DHTID(node_id), PeerId(b"\x00\x14" + DHTID(node_id).encode()))


class World:
    """``size`` nodes of which each knows ``bucket`` at every distance, as Kademlia's tables do, and
    names that many."""

    def __init__(self, seed: int, size: int, bucket: int = 20) -> None:
        self.bucket = bucket
        generator = random.Random(seed)
        self.ids = [DHTID(generator.getrandbits(ID_BITS)) for _ in range(size)]
        self.known: dict[DHTID, list[DHTID]] = {}
        for own in self.ids:
            buckets: dict[int, list[DHTID]] = {}
            for other in generator.sample(self.ids, size):
                buckets.setdefault(own.distance(other).bit_length(), []).append(other)
            self.known[own] = [other for known in buckets.values() for other in known[:bucket]]

    def nearest(self, key: DHTID, count: int, dead: frozenset[DHTID] = frozenset()) -> list[DHTID]:
        return sorted((node_id for node_id in self.ids if node_id not in dead), key=key.distance)[:count]

    def run(self, search: Lookup, dead: frozenset[DHTID] = frozenset()) -> list[Query]:
        asked, under_way = [], []
        while not search.done:
            while query := search.next_query():
                asked.append(query)
                under_way.append(query)
            query = under_way.pop(0)
            if query.node.node_id in dead:
                search.fail(query)
            else:
                known = self.known[query.node.node_id]
                search.answer(
                    query,
                    {
                        key: list(map(node, sorted(known, key=key.distance)[: self.bucket]))
                        for key in query.keys
                    },
                )
        return asked


@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_are_found(seed: int) -> None:
    world = World(seed, 500)
    search = Lookup([KEY], [node(world.ids[0])], OWN)
    asked = world.run(search)
    assert [found.node_id for found in search.nearest(KEY)][:20] == world.nearest(KEY, 20)
    assert len(asked) <= 40


@given(st.integers(0, 1000), st.integers(1, 60), st.floats(0, 0.6), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_the_nearest_living_are_found(seed: int, size: int, share: float, keys: int) -> None:
    world = World(seed, size, bucket=60)
    generator = random.Random(seed)
    dead = frozenset(node_id for node_id in world.ids[1:] if generator.random() < share)
    wanted = [DHTID(generator.getrandbits(ID_BITS)) for _ in range(keys)]
    search = Lookup(wanted, [node(world.ids[0])], OWN, beam=5)
    asked = world.run(search, dead)
    for key in wanted:
        assert [n.node_id for n in search.nearest(key)][:5] == world.nearest(key, 5, dead)
    failures = [query.node.node_id for query in asked if query.node.node_id in dead]
    assert len(failures) == len(set(failures)), "a node that failed was asked again"
    answered = [(query.node.node_id, key) for query in asked for key in query.keys]
    assert len(answered) == len(set(answered)), "a node was asked twice about one key"


def test_queries_run_side_by_side_up_to_the_limit() -> None:
    search = Lookup([KEY], map(node, range(1, 30)), OWN, parallel=3)
    queries = [search.next_query() for _ in range(4)]
    assert [query is None for query in queries] == [False, False, False, True]
    assert queries[0] is not None
    search.answer(queries[0], {})
    assert search.next_query() is not None
    assert search.next_query() is None


def test_only_the_beam_is_asked() -> None:
    search = Lookup([KEY], map(node, range(1, 30)), OWN, beam=4, parallel=100)
    asked = [search.next_query() for _ in range(6)]
    expected = sorted(range(1, 30), key=KEY.distance)[:4]
    assert [query.node.node_id for query in asked if query] == expected
    assert asked[4] is None


def test_a_failure_widens_the_search() -> None:
    search = Lookup([KEY], map(node, [1, 2, 3]), OWN, beam=1)
    first = search.next_query()
    assert first is not None
    search.fail(first)
    second = search.next_query()
    assert second is not None
    assert second.node != first.node
    search.answer(second, {KEY: [first.node]})
    assert search.done
    assert search.nearest(KEY) == [second.node]


def test_keys_share_queries() -> None:
    keys = [DHTID(n << 120) for n in range(1, 41)]
    search = Lookup(keys, [node(5)], OWN)
    sizes = []
    while query := search.next_query():
        assert query.node == node(5)
        sizes.append(len(query.keys))
        assert search.next_query() is None, "one query at a time to each node"
        search.answer(query, {})
    assert sizes == [KEYS_PER_QUERY, KEYS_PER_QUERY, 40 - 2 * KEYS_PER_QUERY]
    assert search.done


def test_a_stopped_key_is_asked_about_no_more() -> None:
    other = DHTID(2 << 100)
    search = Lookup([KEY, other], [node(1)], OWN)
    search.stop(KEY)
    query = search.next_query()
    assert query is not None
    assert query.keys == (other,)
    search.stop(other)
    assert search.done


def test_we_are_never_asked_and_first_impressions_count() -> None:
    impostor = Neighbour(DHTID(1), PeerId(b"\x00\x01x"))
    search = Lookup([KEY], [node(OWN), node(1)], OWN)
    query = search.next_query()
    assert query is not None
    search.answer(query, {KEY: [impostor, node(OWN)]})
    assert search.done
    assert search.nearest(KEY) == [node(1)]


def test_endless_nearer_nodes_are_not_followed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "MAX_QUERIES_PER_KEY", 30)
    search, count = Lookup([KEY], [node(KEY ^ 1 << 159)], OWN), 0
    while query := search.next_query():
        count += 1
        search.answer(query, {KEY: [node(KEY ^ 1 << 159 - count)]})
    assert count == 30
    assert search.done


def test_nothing_known_is_done_at_once() -> None:
    search = Lookup([KEY], [], OWN)
    assert search.done
    assert search.next_query() is None
    assert search.nearest(KEY) == []
    assert Lookup([], [node(1)], OWN).done


def test_an_answer_nobody_asked_for_is_a_bug() -> None:
    search = Lookup([KEY], [node(1)], OWN)
    query = search.next_query()
    assert query is not None
    search.fail(query)
    with pytest.raises(UsageError, match="no query"):
        search.fail(query)

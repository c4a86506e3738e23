"""The routing table: bounded, split where it matters, and never fooled about who is near."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaainet.dht.key import DHTID, ID_BITS
from kwaainet.dht.routing_table import Neighbour, RoutingTable
from kwaainet.types import PeerId

OWN = DHTID(1 << 159)  # the lowest id of the upper half


def peer(number: int) -> PeerId:
    return PeerId(b"\x00\x04" + number.to_bytes(4, "big"))


def fill(table: RoutingTable, ids: list[int]) -> list[Neighbour | None]:
    return [table.add(DHTID(node_id), peer(n), float(n)) for n, node_id in enumerate(ids)]


def random_ids(count: int, seed: int = 1) -> list[int]:
    generator = random.Random(seed)
    return [generator.getrandbits(ID_BITS) for _ in range(count)]


@given(st.lists(st.integers(0, 2**160 - 1), unique=True, max_size=60), st.integers(0, 2**160 - 1))
@settings(max_examples=50)
def test_a_table_with_room_knows_the_nearest(ids: list[int], key: int) -> None:
    table = RoutingTable(DHTID(7), 0.0, bucket_size=60)
    fill(table, ids)
    nearest = [node.node_id for node in table.nearest(DHTID(key), 10)]
    assert nearest == sorted((i for i in ids if i != 7), key=lambda node_id: node_id ^ key)[:10]


def test_nearest_is_exact_over_split_buckets() -> None:
    table = RoutingTable(OWN, 0.0, bucket_size=4)
    fill(table, random_ids(300))
    known = [node.node_id for node in table]
    for key in map(DHTID, random_ids(20, seed=2)):
        expected = sorted(known, key=key.distance)
        assert [node.node_id for node in table.nearest(key, 25)] == expected[:25]
        without = [node_id for node_id in expected if node_id != expected[3]]
        found = table.nearest(key, 5, exclude=expected[3])
        assert [node.node_id for node in found] == without[:5]


def test_memory_is_bounded_far_away_and_detailed_nearby() -> None:
    table = RoutingTable(OWN, 0.0, bucket_size=20)
    fill(table, random_ids(5000))
    far = sum(node.node_id < OWN for node in table)
    near = sum(node.node_id >> 154 == OWN >> 154 for node in table)
    assert far <= 20 * 16  # 2**4 buckets of the half we are not in: depths 1 to 5
    assert near == sum(node_id >> 154 == OWN >> 154 for node_id in random_ids(5000))
    assert len(table) < 1000
    assert len(table._id_of) <= 2 * 20 * len(table._buckets)


def test_a_full_bucket_asks_for_its_oldest_and_keeps_the_newcomer_waiting() -> None:
    table = RoutingTable(OWN, 0.0, bucket_size=2, depth_modulo=1)
    assert fill(table, [1, 2]) == [None, None]
    assert table.add(DHTID(3), peer(3), 1.0) == Neighbour(DHTID(1), peer(0))
    assert table.add(DHTID(4), peer(4), 1.0) == Neighbour(DHTID(2), peer(1))
    assert table.add(DHTID(5), peer(5), 1.0) is None  # both are being pinged
    assert {node.node_id for node in table} == {1, 2}
    assert DHTID(3) not in table  # as many wait as fit a bucket
    assert DHTID(4) in table
    table.add(DHTID(1), peer(0), 2.0)  # it answered
    table.remove(DHTID(2))  # it did not: the latest to wait takes the place
    assert [node.node_id for node in table] == [1, 5]
    assert table.add(DHTID(6), peer(6), 2.0) == Neighbour(DHTID(1), peer(0))


def test_the_waiting_list_is_bounded() -> None:
    table = RoutingTable(OWN, 0.0, bucket_size=2, depth_modulo=1)
    fill(table, list(range(1, 100)))
    assert len(table) == 2
    assert DHTID(99) in table
    assert DHTID(50) not in table
    assert table.id_of(peer(49)) is None
    assert len(table._id_of) == 4


def test_a_peer_stands_under_one_id() -> None:
    table = RoutingTable(OWN, 0.0)
    table.add(DHTID(1), peer(1), 0.0)
    table.add(DHTID(2), peer(1), 0.0)
    assert [node.node_id for node in table] == [2]
    assert table.id_of(peer(1)) == 2


def test_nobody_takes_over_an_id() -> None:
    table = RoutingTable(OWN, 0.0)
    table.add(DHTID(1), peer(1), 0.0)
    assert table.add(DHTID(1), peer(2), 0.0) == Neighbour(DHTID(1), peer(1))
    assert list(table) == [Neighbour(DHTID(1), peer(1))]
    table.remove(DHTID(1))
    assert table.add(DHTID(1), peer(2), 0.0) is None
    assert list(table) == [Neighbour(DHTID(1), peer(2))]


def test_we_are_not_in_our_own_table() -> None:
    table = RoutingTable(OWN, 0.0)
    assert table.add(OWN, peer(1), 0.0) is None
    assert len(table) == 0
    assert OWN not in table


def test_removing_a_stranger_does_nothing() -> None:
    table = RoutingTable(OWN, 0.0)
    table.remove(DHTID(5))
    assert len(table) == 0


def test_stale_ranges_cover_what_nobody_touched() -> None:
    table = RoutingTable(OWN, 0.0, bucket_size=2)
    assert table.stale(0.0) == []
    assert table.stale(0.1) == [(0, 2**160)]
    for n, node_id in enumerate([1, 2, 3 << 158, 5 << 157]):
        table.add(DHTID(node_id), peer(n), 10.0)
    table.searched(DHTID(1), 20.0)
    assert [upper for _, upper in table.stale(15.0)][-1] == 2**160
    assert all(lower > 1 for lower, _ in table.stale(15.0))
    assert table.stale(5.0) == []


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(0, 30)), max_size=200))
@settings(max_examples=60)
def test_the_books_always_agree(steps: list[tuple[bool, int, int]]) -> None:
    table = RoutingTable(OWN, 0.0, bucket_size=3, depth_modulo=2)
    for is_add, node, who in steps:
        node_id = DHTID((node * 0x9E3779B97F4A7C15 << 96) % 2**160)
        if is_add:
            table.add(node_id, peer(who), 0.0)
        else:
            table.remove(node_id)
        standing = {
            peer_id: node_id
            for bucket in table._buckets
            for node_id, peer_id in (*bucket.nodes.items(), *bucket.waiting.items())
        }
        assert standing == table._id_of
        for bucket in table._buckets:
            assert len(bucket.nodes) <= 3
            assert len(bucket.waiting) <= 3
            assert all(bucket.lower <= n < bucket.upper for n in (*bucket.nodes, *bucket.waiting))
        edges = [(bucket.lower, bucket.upper) for bucket in table._buckets]
        assert edges[0][0] == 0
        assert edges[-1][1] == 2**160
        assert all(one[1] == other[0] for one, other in itertools.pairwise(edges))


@pytest.mark.parametrize("count", [0, 1])
def test_small_questions(count: int) -> None:
    table = RoutingTable(OWN, 0.0)
    fill(table, [1, 2, 3])
    assert len(table.nearest(DHTID(0), count)) == count

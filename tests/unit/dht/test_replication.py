"""Who gets which record, and what happens when a node does not answer."""

from kwaainet.dht.key import DHTID
from kwaainet.dht.protocol import Entry
from kwaainet.dht.record import Value
from kwaainet.dht.replication import Replication
from kwaainet.dht.routing_table import Neighbour
from kwaainet.types import PeerId

A, B = DHTID(1), DHTID(2)
NODES = [Neighbour(DHTID(10 + n), PeerId(b"\x00\x01" + bytes([n]))) for n in range(8)]


def entry(key: DHTID, subkey: str | None = None) -> Entry:
    return Entry(key, Value(b"x", 1.0), subkey)


def test_the_nearest_get_it() -> None:
    replication = Replication([entry(A)], {A: NODES}, replicas=3)
    assert replication.next_round() == dict.fromkeys(NODES[:3], (0,))
    for _ in range(3):
        replication.answer((0,), (True,))
    assert replication.next_round() == {}
    assert replication.accepted == [True]


def test_records_for_one_node_travel_together() -> None:
    entries = [entry(A, "x"), entry(B), entry(A, "y")]
    replication = Replication(entries, {A: NODES[:2], B: NODES[1:3]}, replicas=2)
    assert replication.next_round() == {NODES[0]: (0, 2), NODES[1]: (0, 1, 2), NODES[2]: (1,)}


def test_others_take_the_place_of_those_that_fail() -> None:
    replication = Replication([entry(A), entry(B)], {A: NODES, B: NODES[2:]}, replicas=2)
    assert list(replication.next_round()) == [NODES[0], NODES[1], NODES[2], NODES[3]]
    replication.fail(NODES[0])
    replication.answer((0,), (True,))
    replication.fail(NODES[2])
    replication.answer((1,), (True,))
    # node 2 would be next for A, but it has just failed for B
    assert replication.next_round() == {NODES[3]: (0,), NODES[4]: (1,)}


def test_a_refusal_counts_as_an_answer() -> None:
    replication = Replication([entry(A), entry(A, "x")], {A: NODES}, replicas=2)
    replication.next_round()
    replication.answer((0, 1), (False, True))
    replication.answer((0, 1), (False, False))
    assert replication.next_round() == {}
    assert replication.accepted == [False, True]


def test_it_ends_when_nobody_is_left() -> None:
    replication = Replication([entry(A), entry(B)], {A: NODES[:2]}, replicas=5)
    rounds = 0
    while turn := replication.next_round():
        rounds += 1
        for node in turn:
            replication.fail(node)
    assert rounds == 1
    assert replication.accepted == [False, False]

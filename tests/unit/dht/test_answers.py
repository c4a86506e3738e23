"""What a node answers, and what it hands over to a newcomer."""

from kwaainet.dht.answers import Answers
from kwaainet.dht.key import DHTID
from kwaainet.dht.protocol import Entry, Find, Store
from kwaainet.dht.record import Dictionary, Value
from kwaainet.dht.routing_table import Neighbour, RoutingTable
from kwaainet.dht.storage import Storage
from kwaainet.types import PeerId

OWN = DHTID(0)


def build(*others: int) -> Answers:
    table = RoutingTable(OWN, 0.0)
    for node_id in others:
        table.add(DHTID(node_id), peer(node_id), 0.0)
    return Answers(OWN, table, Storage())


def peer(node_id: int) -> PeerId:
    return PeerId(b"\x00\x14" + DHTID(node_id).encode())


def test_every_entry_is_answered_for() -> None:
    node = build()
    dictionary = Dictionary({"a": Value(b"1", 5.0), "b": Value(b"2", 6.0)})
    entries = (
        Entry(DHTID(1), Value(b"x", 5.0)),
        Entry(DHTID(1), Value(b"x", 4.0)),
        None,
        Entry(DHTID(2), dictionary),
        Entry(DHTID(2), Value(b"3", 7.0), "a"),
        Entry(DHTID(2), dictionary),
    )
    stored = node.store(Store(None, entries), 0.0)
    assert stored.accepted == (True, False, False, True, True, False)
    assert stored.node_id == OWN
    united = Dictionary({"a": Value(b"3", 7.0), "b": Value(b"2", 6.0)})
    found = node.find(Find(None, (DHTID(1), DHTID(2), DHTID(3))), 0.0)
    assert [result.record for result in found.results] == [Value(b"x", 5.0), united, None]


def test_expired_records_are_not_told() -> None:
    node = build()
    node.store(Store(None, (Entry(DHTID(1), Value(b"x", 5.0)),)), 0.0)
    assert node.find(Find(None, (DHTID(1),)), 6.0).results[0].record is None


def test_the_nearest_are_named_but_not_to_themselves() -> None:
    node = build(*range(1, 40))
    nearest = node.find(Find(DHTID(7), (DHTID(6),)), 0.0).results[0].nearest
    assert nearest[0] == Neighbour(DHTID(6), peer(6))
    assert DHTID(7) not in [n.node_id for n in nearest]
    assert len(nearest) == 20


def test_a_lonely_node_hands_everything_over() -> None:
    node = build()
    entry = Entry(DHTID(1), Value(b"x", 5.0))
    node.keep(entry, 0.0)
    assert node.handover(DHTID(9), [entry.key], 0.0) == [entry]
    assert node.handover(DHTID(9), [entry.key, DHTID(2)], 6.0) == []


def test_the_nearest_node_hands_over_what_a_newcomer_should_keep() -> None:
    near, far = Entry(DHTID(1), Value(b"x", 5.0)), Entry(DHTID(64), Value(b"y", 5.0))
    node = build(64, 65, 66, 67, 68, 69, 70)
    for entry in (near, far):
        node.keep(entry, 0.0)
    keys = [near.key, far.key]
    assert node.handover(DHTID(8), keys, 0.0) == [near]  # for the other key node 64 is responsible
    assert node.handover(DHTID(1 << 100), keys, 0.0) == []  # five others are nearer


def test_a_newcomer_that_is_in_the_table_already_is_one_still() -> None:
    node = build(64)
    entry = Entry(DHTID(1), Value(b"x", 5.0))
    node.keep(entry, 0.0)
    assert node.handover(DHTID(64), [entry.key], 0.0) == [entry]

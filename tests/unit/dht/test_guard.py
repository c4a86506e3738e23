"""Who may store what, how much, and in whose name."""

from kwaainet.dht.answers import Answers
from kwaainet.dht.guard import MAX_BURST, MAX_OWNED, MAX_SENDERS, PER_SECOND, Guard
from kwaainet.dht.key import DHTID
from kwaainet.dht.protocol import Entry, Store
from kwaainet.dht.record import Dictionary, Value
from kwaainet.dht.routing_table import RoutingTable
from kwaainet.dht.storage import MAX_LIFETIME, MAX_VALUE_SIZE, Storage
from kwaainet.types import PeerId

OWN, KEY = DHTID(0), DHTID(1)
ALICE, BOB, EVE = (PeerId(b"\x00\x04" + name) for name in (b"alic", b"bob_", b"eve_"))


class Node:
    def __init__(self) -> None:
        self.guard = Guard()
        self.storage = Storage()
        self.answers = Answers(OWN, RoutingTable(OWN, 0.0), self.storage, self.guard)

    def store(
        self, sender: PeerId | None, subkey: str | None, data: bytes, until: float, now: float = 0.0
    ) -> bool:
        entry = Entry(KEY, Value(data, until), subkey)
        if sender is None:
            return self.answers.keep(entry, now)
        return self.answers.store(Store(None, (entry,)), now, sender).accepted[0]

    def read(self, subkey: str, now: float = 0.0) -> bytes:
        record = self.storage.get(KEY, now)
        assert isinstance(record, Dictionary)
        return record.entries[subkey].data


def test_a_peers_own_word_holds_against_everybody_elses_until_it_expires() -> None:
    node = Node()
    assert node.store(ALICE, str(ALICE), b"online", 100.0)
    assert not node.store(EVE, str(ALICE), b"offline", 200.0)
    assert node.guard.refused == {"not its own": 1}
    assert node.store(ALICE, str(ALICE), b"still", 150.0)
    assert node.store(EVE, str(ALICE), b"offline", 200.0, now=151.0)


def test_a_copy_of_ones_own_word_is_no_attack() -> None:
    node = Node()
    node.store(ALICE, str(ALICE), b"online", 100.0)
    assert not node.store(BOB, str(ALICE), b"online", 100.0)  # a stock node hands a newcomer what it has
    assert not node.guard.refused


def test_what_was_said_in_a_peers_name_gives_way_to_its_own_word_whatever_the_dates() -> None:
    node = Node()
    assert node.store(EVE, str(ALICE), b"pinned", 9999.0)
    assert node.store(ALICE, str(ALICE), b"true", 100.0)
    assert node.read(str(ALICE)) == b"true"
    assert not node.store(ALICE, str(ALICE), b"older", 99.0)


def test_what_a_third_party_says_of_a_stranger_is_kept() -> None:
    node = Node()
    handed = Dictionary({str(ALICE): Value(b"a", 50.0), str(BOB): Value(b"b", 60.0)})
    assert node.answers.store(Store(None, (Entry(KEY, handed),)), 0.0, EVE).accepted == (True,)
    assert node.store(EVE, "any text", b"x", 10.0)
    assert node.store(BOB, "any text", b"y", 11.0)
    assert node.store(BOB, None, b"plain", 70.0)


def test_we_speak_for_who_is_connected_to_us_and_only_as_long() -> None:
    node = Node()
    here = {str(ALICE)}
    node.guard.speaks_for = lambda subkey: subkey in here
    assert node.store(None, str(ALICE), b"online", 100.0)
    assert not node.store(EVE, str(ALICE), b"offline", 200.0)
    assert not node.store(EVE, str(ALICE), b"offline", 300.0)
    here.clear()
    assert node.store(BOB, str(ALICE), b"elsewhere", 150.0)  # another relay has it now
    assert node.guard.refused == {"not its own": 2}


def test_sizes_times_and_shapes_are_refused_and_counted() -> None:
    node = Node()
    node.guard.shape_of = lambda key: (lambda subkey, data: data != b"bad") if key == KEY else None
    assert not node.store(EVE, "x", bytes(MAX_VALUE_SIZE + 1), 10.0)
    assert not node.store(EVE, "x", b"late", MAX_LIFETIME + 1.0)
    assert not node.store(EVE, "x", b"past", 1.0, now=2.0)
    assert not node.store(EVE, "x", b"bad", 10.0)
    assert not node.store(None, "x", b"bad", 10.0)  # nor do we store such things ourselves
    assert node.guard.refused == {"size": 1, "expiry": 2, "shape": 2}
    assert len(node.storage) == 0


def test_a_flood_is_refused_and_the_one_beside_it_is_not() -> None:
    guard = Guard()
    value = Value(b"x", 1e6)
    burst = int(MAX_BURST)
    assert all(guard.admits(EVE, DHTID(n), None, value, 999_000.0) for n in range(burst))
    assert not guard.admits(EVE, KEY, None, value, 999_000.0)
    assert guard.admits(ALICE, KEY, None, value, 999_000.0)
    assert guard.admits(EVE, KEY, None, value, 999_000.0 + 1.5 / PER_SECOND)
    assert guard.refused == {"rate": 1}


def test_what_is_remembered_is_bounded() -> None:
    guard = Guard()
    for n in range(MAX_SENDERS + 10):
        guard.admits(PeerId(b"\x00\x04" + n.to_bytes(4, "big")), KEY, None, Value(b"x", 10.0), 0.0)
    assert len(guard._left) == MAX_SENDERS
    for n in range(MAX_OWNED + 10):
        guard.stored(ALICE, DHTID(n), str(ALICE), Value(b"x", 10.0), 0.0)
    assert len(guard._owned) == MAX_OWNED
    guard.expire(11.0)
    assert not guard._owned

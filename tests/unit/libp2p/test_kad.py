"""kad messages and lookups."""

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import KwaaiNetError, ProtocolError
from kwaainet.libp2p import kad
from kwaainet.libp2p.kad import ALPHA, FIND_NODE, MAX_ASKED, Lookup, PeerRecord, Request
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.types import PeerId

HOME = Multiaddr.parse("/ip4/127.0.0.1/tcp/1")


def peer(number):
    return PeerId(b"\x12\x20" + hashlib.sha256(b"%d" % number).digest())


TARGET, OWN = peer(1000), peer(1001)


def test_golden_question():
    assert kad.write_find_node(PeerId(b"\x00\x02ab")).hex() == "0804" + "120400026162"


def test_golden_answer():
    record = PeerRecord(PeerId(b"\x00\x02ab"), (HOME,))
    answer = kad.write_response(Request(FIND_NODE, b"key"), [record])
    assert answer.hex() == "0804" + "12036b6579" + "4212" + "0a0400026162" + "1208047f000001060001" + "1801"


def test_question_and_answer_round_trip():
    request = kad.read_request(kad.write_find_node(TARGET))
    assert request == Request(FIND_NODE, TARGET.data)
    records = [PeerRecord(peer(number), (HOME,)) for number in range(3)]
    assert kad.read_response(kad.write_response(request, records)) == records


def test_rows_without_a_peer_are_left_out():
    good = PeerRecord(peer(1), (HOME,))
    message = kad.write_response(Request(FIND_NODE, b""), [good])
    assert kad.read_response(message + bytes.fromhex("4203") + b"\x0a\x01x" + bytes.fromhex("4200")) == [good]


@pytest.mark.parametrize("kind", [0, 2, 6, 99])
def test_requests_that_are_not_served_are_named(kind):
    with pytest.raises(ProtocolError, match=f"type {kind}"):
        kad.read_request(bytes([8, kind]))


def test_a_long_key_is_refused():
    with pytest.raises(ProtocolError, match="129 bytes"):
        kad.read_request(b"\x08\x04\x12\x81\x01" + bytes(129))


def test_closest_orders_by_xor_of_hashes():
    peers = [peer(number) for number in range(50)]
    found = kad.closest(TARGET.data, peers, 5)
    distances = [kad.distance(TARGET.data, one) for one in found]
    assert distances == sorted(distances)
    assert max(distances) < min(kad.distance(TARGET.data, one) for one in peers if one not in found)
    assert kad.distance(TARGET.data, TARGET) == 0


def test_a_lookup_ends_when_somebody_knows():
    lookup = Lookup(TARGET, OWN, [peer(1), peer(2)])
    assert {record.peer for record in lookup.next_peers()} == {peer(1), peer(2)}
    lookup.receive([])
    lookup.receive([PeerRecord(TARGET, (HOME,)), PeerRecord(peer(3), (HOME,))])
    assert lookup.addresses == (HOME,)
    assert lookup.next_peers() == []
    assert lookup.asked == 2


def test_a_lookup_follows_closer_peers_and_asks_nobody_twice():
    lookup = Lookup(TARGET, OWN, [peer(1)])
    assert [record.peer for record in lookup.next_peers()] == [peer(1)]
    lookup.receive([PeerRecord(peer(2), (HOME,)), PeerRecord(peer(1), (HOME,)), PeerRecord(OWN, (HOME,))])
    assert lookup.next_peers() == [PeerRecord(peer(2), (HOME,))]
    assert lookup.next_peers() == []


def test_peers_without_addresses_are_not_asked():
    lookup = Lookup(TARGET, OWN, [peer(1)])
    lookup.next_peers()
    lookup.receive([PeerRecord(peer(2), ())])
    assert lookup.next_peers() == []


def test_a_target_without_addresses_is_not_found():
    lookup = Lookup(TARGET, OWN, [peer(1)])
    lookup.next_peers()
    lookup.receive([PeerRecord(TARGET, ())])
    assert lookup.addresses == ()


def test_a_lookup_is_bounded_and_asks_a_few_at_a_time():
    lookup = Lookup(TARGET, OWN, [peer(0)])
    number = 1
    while records := lookup.next_peers():
        assert len(records) <= ALPHA
        for _ in records:
            lookup.receive([PeerRecord(peer(number + more), (HOME,)) for more in range(10)])
            number += 10
    assert MAX_ASKED <= lookup.asked < MAX_ASKED + ALPHA


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_foreign(data):
    for read in (kad.read_request, kad.read_response):
        with contextlib.suppress(KwaaiNetError):
            read(data)


def peer_of(number: int) -> PeerId:
    return PeerId(b"\x00\x04" + number.to_bytes(4, "big"))


def test_bits_that_a_peer_should_share_grow_with_the_servers_around() -> None:
    own = kad.position(b"us")
    assert kad.near_bits(own, [kad.position(bytes([n])) for n in range(kad.K // 2 - 1)]) == 0
    lossy = kad.near_bits(own, [kad.position(bytes([n])) for n in range(kad.K - 1)])
    assert lossy > 0, "one neighbour of twenty that did not answer leaves no tab anywhere"
    few = kad.near_bits(own, [kad.position(n.to_bytes(2, "big")) for n in range(100)])
    many = kad.near_bits(own, [kad.position(n.to_bytes(2, "big")) for n in range(5000)])
    assert 2 <= few <= 6
    assert 7 <= many <= 12
    assert kad.near_bits(own, [own] * 20) == kad.MAX_NEAR_BITS


def test_the_search_for_neighbours_ends_with_the_nearest_that_answer() -> None:
    own, address = peer_of(0), Multiaddr.parse("/ip4/1.1.1.1/tcp/1")
    everybody = [PeerRecord(peer_of(n), (address,)) for n in range(1, 300)]
    search = kad.Closest(own, everybody[:3])
    asked = 0
    while batch := search.next_peers():
        assert len(batch) <= kad.ALPHA
        for record in batch:
            asked += 1
            dead = record.peer.data[-1] % 7 == 0
            nearest = kad.closest(record.peer.data, (one.peer for one in everybody))
            nearest += kad.closest(own.data, (one.peer for one in everybody), 5)
            answer = [PeerRecord(peer, (address,)) for peer in nearest]
            search.receive(
                record, None if dead else [*answer, PeerRecord(own, (address,)), PeerRecord(peer_of(999), ())]
            )
    found = [record.peer for record in search.found]
    living = [one.peer for one in everybody if one.peer.data[-1] % 7]
    assert found[:5] == kad.closest(own.data, living)[:5]
    assert own not in found
    assert asked <= kad.MAX_ASKED_NEAR


def test_a_liar_that_always_names_nearer_ones_is_not_followed_for_ever() -> None:
    own, address = peer_of(0), Multiaddr.parse("/ip4/1.1.1.1/tcp/1")
    search, asked = kad.Closest(own, [PeerRecord(peer_of(1), (address,))]), 0
    while batch := search.next_peers():
        for record in batch:
            asked += 1
            lies = [PeerRecord(peer_of(asked * 100 + n), (address,)) for n in range(kad.K)]
            search.receive(record, lies)
    assert asked <= kad.MAX_ASKED_NEAR

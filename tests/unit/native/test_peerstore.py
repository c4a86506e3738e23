"""What is remembered of peers, and for how long."""

from kwaainet.libp2p.identify import Description
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.native import peerstore
from kwaainet.native.peerstore import MAX_ADDRESSES, Peerstore
from kwaainet.types import PeerId

ALICE, BOB = PeerId(b"\x00\x02al"), PeerId(b"\x00\x02bo")


def tcp(port):
    return Multiaddr.parse(f"/ip4/1.2.3.4/tcp/{port}")


def test_addresses_are_kept_without_the_peer_newest_first():
    store = Peerstore()
    store.add(ALICE, [tcp(1).with_peer(ALICE)])
    store.add(ALICE, [tcp(2), tcp(1)])
    store.add(ALICE, [])
    assert store.addresses(ALICE) == [tcp(2), tcp(1)]
    assert store.addresses(BOB) == []


def test_both_tables_are_bounded(monkeypatch):
    monkeypatch.setattr(peerstore, "MAX_PEERS", 1)
    store = Peerstore()
    store.add(ALICE, [tcp(port) for port in range(MAX_ADDRESSES + 5)])
    assert len(store.addresses(ALICE)) == MAX_ADDRESSES
    store.add(BOB, [tcp(1)])
    assert store.addresses(ALICE) == []
    assert store.addresses(BOB) == [tcp(1)]


def test_a_description_replaces_addresses_and_ends_with_the_connection():
    store = Peerstore()
    store.add(ALICE, [tcp(1)])
    store.describe(ALICE, Description((tcp(2),), frozenset({"echo"})))
    assert store.addresses(ALICE) == [tcp(2)]
    assert store.description(ALICE).protocols == {"echo"}
    store.disconnected(ALICE)
    assert store.description(ALICE) == Description()
    assert store.addresses(ALICE) == [tcp(2)], "where it was is still worth a try"
    store.forget(ALICE)
    assert store.addresses(ALICE) == []

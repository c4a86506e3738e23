"""Multiaddrs, with golden bytes from the multiaddr spec and addresses that real peers send."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import InputError, KwaaiNetError, ProtocolError
from kwaainet.libp2p.multiaddr import MAX_MULTIADDR_SIZE, Multiaddr
from kwaainet.types import PeerId

PEER = "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7"
OTHER = "QmULTMTLCdBgZmYRTpUeRGVevPbMn9BmgeBMSmjx6gJhU3"


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("/ip4/127.0.0.1/tcp/4001", "047f000001060fa1"),
        ("/ip6/::1/tcp/80", "290000000000000000000000000000000106" + "0050"),
        ("/ip4/1.2.3.4/tcp/80/ws", "0401020304060050dd03"),
        ("/dns4/example.com/tcp/443/wss", "360b6578616d706c652e636f6d0601bbde03"),
        ("/dns/a.b/tcp/443/tls/ws", "3503612e620601bbc003dd03"),
        ("/ip4/1.2.3.4/udp/4001/quic-v1", "040102030491020fa1cd03"),
        ("/p2p-circuit", "a202"),
    ],
)
def test_known_encodings(text, data):
    address = Multiaddr.parse(text)
    assert address.encode().hex() == data
    assert Multiaddr.decode(bytes.fromhex(data)) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        f"/ip4/10.0.0.1/tcp/4001/p2p/{PEER}/p2p-circuit/p2p/{OTHER}",
        "/ip4/1.2.3.4/udp/4001/quic-v1/webtransport/certhash/uEiAkH5a4DPGKUuOBjYw0CgwjvcJCJMD2K_1aluKR_tpevQ",
        "/ip4/1.2.3.4/udp/9090/webrtc-direct/certhash/uEiAkH5a4DPGKUuOBjYw0CgwjvcJCJMD2K_1aluKR_tpevQ",
        "/ip4/1.2.3.4/tcp/443/tls/sni/example.com/ws",
        "/ip6zone/eth0/ip6/fe80::1/tcp/1",
        f"/dnsaddr/bootstrap.libp2p.io/p2p/{OTHER}",
        f"/ip4/1.2.3.4/tcp/1/ws/p2p/{PEER}/p2p-circuit/webrtc/p2p/{OTHER}",
        "/memory/7",
    ],
)
def test_foreign_addresses_survive_a_round_trip(text):
    address = Multiaddr.parse(text)
    assert str(Multiaddr.decode(address.encode())) == text


def test_ipfs_is_an_old_name_of_p2p():
    assert Multiaddr.parse(f"/ipfs/{PEER}") == Multiaddr.parse(f"/p2p/{PEER}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a multiaddr"),
        ("/", "1 to 32 parts"),
        ("127.0.0.1:80", "not a multiaddr"),
        ("/ip4", "needs a value"),
        ("/ip4/127.0.0.256/tcp/1", "not a value for /ip4"),
        ("/ip4/127.0.0.1/tcp/65536", "not a value for /tcp"),
        ("/ip4/127.0.0.1/tcp/-1", "whole number"),
        ("/ip4/127.0.0.1/tcp/٣", "whole number"),
        ("/frob/1", "'frob' is not a known protocol"),
        ("/p2p/hello", "not a value for /p2p"),
        ("/certhash/zabc", "multibase"),
        ("/ws" * 33, "1 to 32 parts"),
        ("/dns4/" + "a" * 3000, "not a multiaddr"),
    ],
)
def test_bad_text_is_refused_with_a_reason(text, said):
    with pytest.raises(InputError, match=said):
        Multiaddr.parse(text)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "1 to 32 parts"),
        ("04", "ends inside its ip4"),
        ("047f0000", "ends inside its ip4"),
        ("36ff01", "ends inside its dns4"),
        ("3602ff2f", "not a value for /dns4"),
        ("350161" * 40, "1 to 32 parts"),
        ("8fff7f", "unknown protocol"),
        ("a503020001", "not a value for /p2p"),
        ("36ffffffffffffffffff7f", "varint|ends inside"),
    ],
)
def test_bad_bytes_are_the_peers_fault(data, said):
    with pytest.raises(ProtocolError, match=said):
        Multiaddr.decode(bytes.fromhex(data))


def test_an_oversize_address_is_refused_before_it_is_parsed():
    with pytest.raises(ProtocolError, match=str(MAX_MULTIADDR_SIZE)):
        Multiaddr.decode(b"\xdd\x03" * (MAX_MULTIADDR_SIZE // 2 + 1))


@pytest.mark.parametrize(
    ("text", "transport"),
    [
        ("/ip4/1.2.3.4/tcp/80", "tcp"),
        ("/dns6/a.b/tcp/80/ws", "ws"),
        ("/dns4/a.b/tcp/443/wss", "wss"),
        ("/dns/a.b/tcp/443/tls/ws", "wss"),
        ("/ip4/1.2.3.4/tcp/443/tls/sni/a.b/ws", "wss"),
        (f"/ip4/1.2.3.4/tcp/80/p2p/{PEER}", "tcp"),
        ("/ip4/1.2.3.4/udp/80/quic-v1", None),
        ("/ip4/1.2.3.4", None),
        ("/unix/uYWJj", None),
        (f"/ip4/1.2.3.4/tcp/80/p2p/{PEER}/p2p-circuit", None),
    ],
)
def test_what_can_be_dialled_directly(text, transport):
    assert Multiaddr.parse(text).transport == transport


def test_host_and_port():
    assert Multiaddr.parse("/dns4/a.b/tcp/443/wss").host_port == ("a.b", 443)
    with pytest.raises(InputError, match="not a TCP"):
        _ = Multiaddr.parse("/p2p-circuit").host_port


def test_a_circuit_address_comes_apart_and_together():
    relay = Multiaddr.parse(f"/ip4/1.2.3.4/tcp/80/ws/p2p/{PEER}")
    address = relay / "/p2p-circuit" / f"/p2p/{OTHER}"
    assert address.is_circuit
    assert not relay.is_circuit
    assert address.split_circuit() == (relay, Multiaddr.parse(f"/p2p/{OTHER}"))
    assert address.peer == PeerId.parse(OTHER)
    assert address.without_peer() == relay / "/p2p-circuit"
    assert address.without_peer().with_peer(PeerId.parse(OTHER)) == address
    assert address.with_peer(PeerId.parse(OTHER)) == address
    with pytest.raises(InputError, match="no /p2p-circuit"):
        relay.split_circuit()


@given(st.binary(max_size=200))
def test_whatever_decodes_encodes_to_something_that_decodes_to_it(data):
    try:
        address = Multiaddr.decode(data)
    except KwaaiNetError:
        return
    assert Multiaddr.decode(address.encode()) == address
    assert Multiaddr.parse(str(address)) == address


@given(st.text(max_size=100))
def test_arbitrary_text_raises_nothing_foreign(text):
    for candidate in (text, "/" + text, "/ip4/" + text, "/p2p/" + text, "/dns/" + text, "/certhash/u" + text):
        with contextlib.suppress(InputError):
            Multiaddr.parse(candidate)

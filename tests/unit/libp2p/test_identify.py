"""identify: golden bytes, and peers that list nonsense."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import KwaaiNetError, ProtocolError
from kwaainet.libp2p import identify
from kwaainet.libp2p.identify import MAX_ADDRESSES, MAX_PROTOCOLS, Identify, parse_addresses
from kwaainet.libp2p.multiaddr import Multiaddr

HOME = Multiaddr.parse("/ip4/127.0.0.1/tcp/1")


def test_golden_bytes():
    message = Identify(b"k", (HOME.encode(),), ("A.b",), HOME.encode(), "ipfs/0.1.0", "x/1")
    assert message.encode().hex() == (
        "0a016b" + "1208047f000001060001" + "1a03412e62" + "2208047f000001060001"
        "2a0a697066732f302e312e30" + "3203782f31"
    )


def test_what_is_kept():
    message = Identify(b"k", (HOME.encode(),), ("A.b", "/c"), HOME.encode(), "ipfs/0.1.0", "agent/1")
    description = identify.read(message.encode())
    assert description.addresses == (HOME,)
    assert description.protocols == {"A.b", "/c"}
    assert description.agent == "agent/1"
    assert description.observed == HOME


def test_an_empty_message_describes_nothing():
    assert identify.read(b"") == identify.Description()


def test_addresses_that_cannot_be_parsed_are_dropped_and_others_kept_once():
    assert parse_addresses([b"\x8f\xff\x7f", HOME.encode(), b"", HOME.encode(), b"\x04"]) == (HOME,)


def test_lists_are_capped():
    addresses = tuple(Multiaddr.parse(f"/ip4/1.2.3.4/tcp/{port}").encode() for port in range(1, 200))
    protocols = tuple(f"P.{number}" for number in range(MAX_PROTOCOLS + 10))
    description = identify.read(Identify(None, addresses, protocols).encode())
    assert len(description.addresses) == MAX_ADDRESSES
    assert len(description.protocols) == MAX_PROTOCOLS
    assert len(identify.read(Identify(agent_version="x" * 5000).encode()).agent) == 200


def test_protocols_that_are_no_text_are_the_peers_fault():
    with pytest.raises(ProtocolError):
        identify.read(b"\x1a\x01\xff")


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_foreign(data):
    with contextlib.suppress(KwaaiNetError):
        identify.read(data)

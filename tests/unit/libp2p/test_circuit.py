"""Circuit messages, vouchers and the table of reservations."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import CapacityError, KwaaiNetError, ProtocolError
from kwaainet.identity.keys import PrivateKey, peer_id
from kwaainet.libp2p import circuit
from kwaainet.libp2p.circuit import (
    RESERVATION_SECONDS,
    HopMessage,
    HopType,
    Peer,
    ReservationTable,
    Status,
    StopMessage,
    StopType,
)
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.native.crypto import NativeCrypto
from kwaainet.types import PeerId

CRYPTO = NativeCrypto()
RELAY = PrivateKey(b"r" * 32)
ALICE, BOB = PeerId(b"\x00\x02al"), PeerId(b"\x00\x02bo")
HOME = Multiaddr.parse("/ip4/127.0.0.1/tcp/1")


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (HopMessage(HopType.RESERVE), "0800"),
        (HopMessage(HopType.CONNECT, peer=Peer(ALICE.data)), "0801" + "12060a040002616c"),
        (HopMessage(HopType.STATUS, status=Status.NO_RESERVATION), "0802" + "28cc01"),
        (StopMessage(StopType.CONNECT, peer=Peer(ALICE.data)), "0800" + "12060a040002616c"),
        (StopMessage(StopType.STATUS, status=Status.OK), "0801" + "2064"),
    ],
)
def test_golden_messages(message, data):
    assert message.encode().hex() == data
    assert type(message).decode(bytes.fromhex(data)) == message


def test_no_limit_is_ever_sent():
    granted = circuit.reserved(1234, (HOME.encode(),), b"v")
    assert granted.encode().hex() == "0802" + "1a10" + "08d209" + "1208047f000001060001" + "1a0176" + "2864"


def test_the_peer_of_a_connect():
    assert circuit.peer_of(HopMessage(HopType.CONNECT, peer=Peer(ALICE.data))) == ALICE
    for message in (HopMessage(HopType.CONNECT), StopMessage(StopType.CONNECT, peer=Peer(b"no"))):
        with pytest.raises(ProtocolError, match="names no peer"):
            circuit.peer_of(message)


def test_a_voucher_is_a_signed_envelope():
    """Signature over domain, payload type and payload, each with its length (libp2p RFC 0002)."""
    envelope = circuit._Envelope.decode(circuit.voucher(CRYPTO, RELAY, ALICE, 1234))
    payload = circuit._Voucher.decode(envelope.payload)
    assert (payload.relay, payload.peer) == (peer_id(RELAY.public(CRYPTO)).data, ALICE.data)
    assert payload.expiration == 1234
    assert envelope.payload_type == b"\x03\x02"
    signed = b"\x11libp2p-relay-rsvp" + b"\x02\x03\x02" + bytes([len(envelope.payload)]) + envelope.payload
    assert RELAY.public(CRYPTO).verify(CRYPTO, envelope.signature, signed)


def test_a_reservation_holds_until_it_is_released():
    table = ReservationTable()
    assert not table.holds(ALICE)
    assert table.reserve(ALICE, 100.5) == 100 + RESERVATION_SECONDS
    assert table.holds(ALICE)
    assert not table.holds(BOB)
    assert len(table) == 1, "whatever time it is: clocks jump"


def test_renewing_prolongs_and_releasing_ends():
    table = ReservationTable()
    table.reserve(ALICE, 0.0)
    table.reserve(ALICE, 3000.0)
    assert table.holds(ALICE)
    assert len(table) == 1
    table.release(ALICE)
    table.release(ALICE)
    assert not table.holds(ALICE)


def test_what_has_run_out_is_dropped():
    table = ReservationTable()
    table.reserve(ALICE, 0.0)
    table.reserve(BOB, 1000.0)
    assert table.expire(RESERVATION_SECONDS + 1) == [ALICE]
    assert len(table) == 1


def test_a_full_table_refuses_newcomers_only_and_makes_room_when_some_run_out(monkeypatch):
    monkeypatch.setattr(circuit, "MAX_RESERVATIONS", 1)
    table = ReservationTable()
    table.reserve(ALICE, 0.0)
    table.reserve(ALICE, 1.0)
    with pytest.raises(CapacityError):
        table.reserve(BOB, 2.0)
    table.reserve(BOB, 2.0 + RESERVATION_SECONDS)
    assert not table.holds(ALICE)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_foreign(data):
    for kind in (HopMessage, StopMessage):
        with contextlib.suppress(KwaaiNetError):
            circuit.peer_of(kind.decode(data))

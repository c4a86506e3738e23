"""A million inputs for each thing that reads what strangers send; a few thousand of them in ``make test``.

Each target says what must hold besides "only our own errors": what is kept stays within its caps.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache
from random import Random

import pytest
from nightly.fuzzing import Mutator, fuzz, pieces
from nightly.sizes import size

from kwaainet.dht import protocol as dht
from kwaainet.dht.answers import Answers
from kwaainet.dht.guard import Guard
from kwaainet.dht.key import DHTID
from kwaainet.dht.record import Dictionary, Value
from kwaainet.dht.routing_table import Neighbour, RoutingTable
from kwaainet.dht.storage import Storage
from kwaainet.errors import KwaaiNetError
from kwaainet.identity.keys import PrivateKey, peer_id
from kwaainet.libp2p import circuit, identify, kad, noise, yamux
from kwaainet.libp2p.circuit import HopMessage, HopType, Status, StopMessage, StopType
from kwaainet.libp2p.connection import Connection
from kwaainet.libp2p.delimited import DelimitedReader, delimit
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.libp2p.multistream import Chooser, Proposer
from kwaainet.native.client_hello import hello_of
from kwaainet.native.crypto import NativeCrypto
from kwaainet.swarm.shapes import SwarmShapes
from kwaainet.types import PeerId
from kwaainet.wire import msgpack

COUNT = size(2000, 1_000_000)
CRYPTO = NativeCrypto()
ALICE, BOB = PrivateKey(b"a" * 32), PrivateKey(b"b" * 32)
ALICE_ID, BOB_ID = (peer_id(key.public(CRYPTO)) for key in (ALICE, BOB))
HOME = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001/ws")
NOW = 1_700_000_000.0


# --- noise ----------------------------------------------------------------------------------------


@cache
def credentials(identity: PrivateKey) -> noise.Credentials:
    return noise.Credentials.create(CRYPTO, identity, b"s" * 32)


def handshake(*, initiator: bool, told: noise.Credentials | None = None) -> noise.Handshake:
    own = told or credentials(ALICE if initiator else BOB)
    return noise.Handshake(CRYPTO, own, (b"i" if initiator else b"r") * 32, initiator=initiator)


@cache
def handshake_messages() -> tuple[bytes, bytes, bytes]:
    alice, bob = handshake(initiator=True), handshake(initiator=False)
    first = alice.data_to_send()
    bob.receive_data(first)
    second = bob.data_to_send()
    alice.receive_data(second)
    return first, second, alice.data_to_send()


def test_noise_handshakes() -> None:
    first, second, third = handshake_messages()

    def feed(data: bytes, random: Random) -> None:
        one = handshake(initiator=random.random() < 0.3)
        one.data_to_send()
        if data in (first + third, second):
            return
        for piece in pieces(data, random):
            one.receive_data(piece)
        assert one.result is None or data.startswith((first + third, second)), "a forged handshake"
        assert len(one.data_to_send()) <= 4 * noise.MAX_HANDSHAKE_MESSAGE

    fuzz("noise handshakes", [first, second, first + third], feed, COUNT)


def test_noise_payloads_of_who_knows_how_to_encrypt() -> None:
    """Identities and signatures that were tampered with before they were encrypted."""
    own = credentials(ALICE)

    def feed(data: bytes, random: Random) -> None:
        alice = handshake(initiator=True, told=replace(own, payload=data[:4000]))
        bob = handshake(initiator=False)
        bob.receive_data(alice.data_to_send())
        alice.receive_data(bob.data_to_send())
        bob.receive_data(alice.data_to_send())
        assert bob.result is not None
        assert peer_id(bob.result.public_key) in (ALICE_ID, BOB_ID), "only who signed this static key"

    fuzz("noise payloads", [own.payload, credentials(BOB).payload], feed, COUNT)


def test_noise_messages() -> None:
    alice, bob = handshake(initiator=True), handshake(initiator=False)
    bob.receive_data(alice.data_to_send())
    alice.receive_data(bob.data_to_send())
    assert alice.result is not None
    sent = [b"".join(alice.result.sender.encrypt(text)) for text in (b"hello", bytes(3000), b"")]

    def feed(data: bytes, random: Random) -> None:
        fresh = noise.Receiver(CRYPTO.chacha20poly1305(b"k" * 32))
        for piece in pieces(data, random):
            for _ in fresh.receive_data(piece):
                raise AssertionError("a message under another key was opened")

    fuzz("noise messages", sent, feed, COUNT)


# --- what runs inside -----------------------------------------------------------------------------


def frames() -> list[bytes]:
    client = yamux.Session(client=True)
    first, second = client.open_stream(), client.open_stream()
    client.send(first, b"hello" * 20)
    client.ping(7)
    opened = client.data_to_send(1 << 16)
    client.send(second, bytes(900))
    client.end(first)
    client.reset(second)
    closed = client.data_to_send(1 << 16)
    client.go_away(1)
    header = yamux.HEADER.pack
    wide = header(0, 1, 1, 1, 5) + header(0, 1, 0, 1, 0xFFFF_FFFF) + header(0, 2, 2, 0, 9)
    return [opened, closed, opened + closed, client.data_to_send(1 << 16), wide]


def test_yamux() -> None:
    def feed(data: bytes, random: Random) -> None:
        session = yamux.Session(client=False)
        own = session.open_stream()
        session.send(own, b"x" * 300)
        for piece in pieces(data, random):
            try:
                session.receive_data(piece)
            finally:
                unread = 0
                while (event := session.next_event()) is not None:
                    if isinstance(event, yamux.StreamData):
                        unread += len(event.data)
                        if random.random() < 0.5:
                            session.grant(event.stream_id, len(event.data))
                assert unread <= len(data)
                assert session.stream_count <= yamux.MAX_STREAMS
        sent = 0
        while part := session.data_to_send(1 << 16):
            sent += len(part)
        assert sent <= 300 + 13 * (len(data) + 40), "no more is answered than was asked"

    fuzz("yamux", frames(), feed, COUNT)


def test_multistream() -> None:
    lines = [delimit(text.encode() + b"\n") for text in ("/multistream/1.0.0", "/noise", "na", "ls", "/x/1")]
    golden = [lines[0] + lines[1] + b"behind", lines[0] + lines[2] + lines[4], lines[0] + lines[4] * 3]

    def feed(data: bytes, random: Random) -> None:
        side = random.choice((Chooser(lambda name: name == "/x/1"), Proposer(["/noise", "/x/1"])))
        for piece in pieces(data, random):
            if side.protocol is None:
                side.receive_data(piece)
        assert side.protocol in (None, "/noise", "/x/1")
        assert len(side.data_to_send()) <= 64 * 8 + 100
        side.take_rest()

    fuzz("multistream", golden, feed, COUNT)


def connected() -> tuple[Connection, Connection]:
    def side(identity: PrivateKey, *, initiator: bool) -> Connection:
        return Connection(
            crypto=CRYPTO,
            credentials=credentials(identity),
            ephemeral=(b"i" if initiator else b"r") * 32,
            initiator=initiator,
            supports=lambda protocol: protocol == "echo",
            now=0.0,
        )

    alice, bob = side(ALICE, initiator=True), side(BOB, initiator=False)
    for _ in range(4):
        for one, other in ((alice, bob), (bob, alice)):
            if data := one.data_to_send():
                other.receive_data(data)
            while one.next_event() is not None:
                pass
    return alice, bob


def test_connections_with_an_authenticated_peer() -> None:
    """The layers together, as a peer that proved who it is can reach them; one connection takes many."""
    header = yamux.HEADER.pack
    hello = delimit(b"/multistream/1.0.0\n") + delimit(b"echo\n") + b"data"
    golden = [header(0, 0, 1, 1, len(hello)) + hello, *frames()]
    alice, bob = connected()
    secured = alice._secured
    assert secured is not None

    def feed(data: bytes, random: Random) -> None:
        nonlocal alice, bob, secured
        try:
            assert secured is not None
            bob.receive_data(b"".join(secured.sender.encrypt(data)))
            while bob.next_event() is not None:
                pass
            bob.data_to_send()
        except KwaaiNetError:
            alice, bob = connected()
            secured = alice._secured
            raise

    fuzz("connections", golden, feed, COUNT)


# --- messages -------------------------------------------------------------------------------------


def test_identify() -> None:
    told = identify.Identify(
        public_key=ALICE.public(CRYPTO).encode(),
        listen_addresses=(HOME.encode(), (HOME.with_peer(ALICE_ID) / "/p2p-circuit").encode()),
        protocols=(identify.PROTOCOL, kad.PROTOCOL, "/x/1"),
        observed_address=HOME.encode(),
        protocol_version=identify.PROTOCOL_VERSION,
        agent_version="go-libp2p/0.1",
    ).encode()

    def feed(data: bytes, random: Random) -> None:
        found = identify.read(data)
        assert len(found.addresses) <= identify.MAX_ADDRESSES
        assert len(found.protocols) <= identify.MAX_PROTOCOLS
        for address in found.addresses:
            assert Multiaddr.parse(str(address)) == address, "what is told on is what was read"

    fuzz("identify", [told], feed, COUNT)


def test_kad() -> None:
    records = [kad.PeerRecord(peer, (HOME,)) for peer in (ALICE_ID, BOB_ID)]
    question = kad.write_find_node(ALICE_ID)
    answer = kad.write_response(kad.read_request(question), records)

    def feed(data: bytes, random: Random) -> None:
        lookup = kad.Lookup(ALICE_ID, BOB_ID, [ALICE_ID])
        with suppress(KwaaiNetError):
            found = kad.read_response(data)
            lookup.receive(found)
            assert len(found) <= 2 * kad.K
            assert len(lookup.next_peers()) <= kad.ALPHA
        request = kad.read_request(data)
        assert kad.read_request(kad.write_response(request, records)).type == request.type

    fuzz("kad", [question, answer], feed, COUNT)


def test_hop() -> None:
    address = (HOME.encode(),)
    signed = circuit.voucher(CRYPTO, ALICE, BOB_ID, int(NOW))
    golden = [
        HopMessage(HopType.RESERVE).encode(),
        HopMessage(HopType.CONNECT, peer=circuit.Peer(ALICE_ID.data, address)).encode(),
        circuit.reserved(int(NOW), (HOME.encode(),), signed).encode(),
        HopMessage(HopType.STATUS, status=Status.OK).encode(),
        StopMessage(StopType.CONNECT, peer=circuit.Peer(BOB_ID.data)).encode(),
    ]

    def feed(data: bytes, random: Random) -> None:
        reader = DelimitedReader(circuit.MAX_MESSAGE)
        for piece in pieces(delimit(data) if random.random() < 0.8 else data, random):
            reader.receive_data(piece)
        while (message := reader.next_message()) is not None:
            for kind in (HopMessage, StopMessage):
                with suppress(KwaaiNetError):
                    read = kind.decode(message)
                    assert kind.decode(read.encode()) == read
                    circuit.peer_of(read)

    fuzz("HOP", golden, feed, COUNT)


# --- the DHT --------------------------------------------------------------------------------------


class Node:
    """A full node without a network, with the shapes that a relay holds records to."""

    def __init__(self) -> None:
        self.storage = Storage()
        own = DHTID(5)
        table = RoutingTable(own, NOW)
        guard = Guard(SwarmShapes().of, lambda subkey: subkey == str(BOB_ID))
        self.answers = Answers(own, table, self.storage, guard)


def dht_messages() -> list[bytes]:
    server = msgpack.dumps((2, 100.0, {"version": "2.3", "torch_dtype": "float16"}))
    plain = dht.Entry(DHTID.of("some key"), Value(msgpack.dumps([1, "two"]), NOW + 60))
    block = dht.Entry(DHTID.of("model.0"), Value(server, NOW + 60), str(ALICE_ID))
    whole = dht.Entry(DHTID.of("model.1"), Dictionary({str(ALICE_ID): Value(server, NOW + 60)}))
    results = tuple(dht.Result(entry.record, (Neighbour(DHTID(9), ALICE_ID),)) for entry in (plain, whole))
    return [
        dht.Ping(DHTID(3), validate=True).encode(),
        dht.Store(DHTID(3), (plain, block)).encode(),
        dht.Store(None, (whole,)).encode(),
        dht.Find(DHTID(3), (plain.key, block.key, whole.key)).encode(),
        dht.Found(DHTID(3), results).encode(),
        dht.Stored(DHTID(3), (True, False)).encode(),
    ]


def test_dht() -> None:
    node, made = Node(), 0

    def feed(data: bytes, random: Random) -> None:
        nonlocal node, made
        made += 1
        now = NOW + made % 20_000 / 400  # time goes on, but the golden records live
        if made % 20_000 == 0:
            node = Node()  # else it is full of what came first
        for reply in (lambda: dht.Found.decode(data, 2), lambda: dht.Stored.decode(data, 2)):
            with suppress(KwaaiNetError):
                reply()
        with suppress(KwaaiNetError):
            dht.Pong.decode(data).check_clock(NOW, NOW + 1)
        with suppress(KwaaiNetError):
            dht.Ping.decode(data).encode()
        with suppress(KwaaiNetError):
            store = dht.Store.decode(data)
            node.answers.store(store, now, random.choice((ALICE_ID, BOB_ID))).encode()
            assert node.storage.size <= node.storage._max_total_size
        find = dht.Find.decode(data)
        dht.Found.decode(node.answers.find(find, now).encode(), len(find.keys))

    fuzz("DHT", dht_messages(), feed, COUNT)


def test_tls_hellos() -> None:
    name = b"\x00\x00\x00\x10\x00\x0e\x00\x00\x0brelay.local"
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += (len(name)).to_bytes(2, "big") + name
    hello = b"\x01" + len(body).to_bytes(3, "big") + body
    record = b"\x16\x03\x01" + len(hello).to_bytes(2, "big") + hello

    def feed(data: bytes, random: Random) -> None:
        found = hello_of(data)
        assert found is None or len(found.name) <= len(data)

    assert fuzz("TLS hellos", [record], feed, COUNT) == COUNT, "what is not understood is None"


def test_an_input_that_breaks_something_is_named() -> None:
    def feed(data: bytes, random: Random) -> None:
        if len(data) > 3:
            raise ZeroDivisionError

    with pytest.raises(AssertionError, match=r"x: input \d+ of seed 7, [0-9a-f]+: ZeroDivision") as told:
        fuzz("x", [b"abc"], feed, 1000, seed=7)
    number = int(str(told.value).split()[2])
    assert len(Mutator([b"abc"], 7).make(number)[0]) > 3, "and can be made again"
    assert Mutator([b"abc"], 7).make(5)[0] == Mutator([b"abc"], 7).make(5)[0]


def test_peer_ids_in_text() -> None:
    def feed(data: bytes, random: Random) -> None:
        text = data.decode("latin-1")
        with suppress(KwaaiNetError):
            assert str(Multiaddr.parse(text)) == text or Multiaddr.parse(str(Multiaddr.parse(text)))
        assert PeerId.parse(text) == PeerId.parse(str(PeerId.parse(text)))

    fuzz("texts", [str(ALICE_ID).encode(), str(HOME.with_peer(ALICE_ID)).encode()], feed, COUNT)

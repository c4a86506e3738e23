"""Whole connections in memory: handshake, streams, deadlines, and everything that can go wrong."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaainet.errors import HandshakeError, KwaaiNetError, ProtocolError, StreamReset, UsageError
from kwaainet.identity.keys import PrivateKey, peer_id
from kwaainet.libp2p import connection as module
from kwaainet.libp2p import noise
from kwaainet.libp2p.connection import (
    HANDSHAKE_TIMEOUT,
    KEEPALIVE,
    Connected,
    Connection,
    StreamOpened,
    StreamRefused,
)
from kwaainet.libp2p.yamux import WINDOW, GoneAway, StreamAborted, StreamData, StreamEnded
from kwaainet.native.crypto import NativeCrypto

CRYPTO = NativeCrypto()
ALICE, BOB = PrivateKey(b"a" * 32), PrivateKey(b"b" * 32)
ALICE_ID, BOB_ID = (peer_id(key.public(CRYPTO)) for key in (ALICE, BOB))
SERVED = ("echo", "sink")


def side(identity, *, initiator, expected_peer=None):
    return Connection(
        crypto=CRYPTO,
        credentials=noise.Credentials.create(CRYPTO, identity, b"s" * 32),
        ephemeral=(b"i" if initiator else b"r") * 32,
        initiator=initiator,
        supports=lambda protocol: protocol in SERVED,
        now=100.0,
        expected_peer=expected_peer,
    )


class Pair:
    """Alice dials Bob."""

    def __init__(self, **options):
        self.alice = side(ALICE, initiator=True, **options)
        self.bob = side(BOB, initiator=False)

    def exchange(self):
        """Move bytes until nobody has any; returns (Alice's events, Bob's events)."""
        seen, moved = ([], []), True
        while moved:
            moved = False
            for one, other in ((self.alice, self.bob), (self.bob, self.alice)):
                while data := one.data_to_send():
                    other.receive_data(memoryview(data))
                    moved = True
            for machine, found in zip((self.alice, self.bob), seen, strict=True):
                while (event := machine.next_event()) is not None:
                    found.append(event)
                    moved = True
        return seen

    def connected(self):
        self.exchange()
        return self


def received(found, stream_id):
    return b"".join(bytes(e.data) for e in found if isinstance(e, StreamData) and e.stream_id == stream_id)


def test_both_sides_connect_and_know_each_other():
    alice, bob = Pair(expected_peer=BOB_ID).exchange()
    assert alice == [Connected(BOB_ID, BOB.public(CRYPTO))]
    assert bob == [Connected(ALICE_ID, ALICE.public(CRYPTO))]


def test_the_first_bytes_are_optimistic():
    first = side(ALICE, initiator=True).data_to_send()
    assert first.startswith(b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x20")


def test_another_peer_than_dialled_is_refused():
    with pytest.raises(HandshakeError, match=f"dialled {ALICE_ID}, but {BOB_ID}"):
        Pair(expected_peer=ALICE_ID).exchange()


def test_a_peer_without_noise_is_refused():
    alice = side(ALICE, initiator=True)
    with pytest.raises(HandshakeError, match="'/noise'"):
        alice.receive_data(b"\x13/multistream/1.0.0\n\x03na\n")


def test_data_may_follow_the_proposal_at_once():
    pair = Pair().connected()
    stream = pair.alice.open_stream("echo")
    pair.alice.send(stream, b"hello")
    alice, bob = pair.exchange()
    assert bob[:2] == [StreamOpened(stream, "echo", True), StreamData(stream, b"hello")]
    assert alice[0] == StreamOpened(stream, "echo", False)


def test_streams_open_from_either_side():
    pair = Pair().connected()
    stream = pair.bob.open_stream("sink")
    alice, bob = pair.exchange()
    assert StreamOpened(stream, "sink", True) in alice
    assert StreamOpened(stream, "sink", False) in bob


@pytest.mark.parametrize("optimism", [b"", b"x" * 3, b"\xff" * 50, b"\xff\xff\xff\x7f" + bytes(500)])
def test_a_protocol_nobody_serves_is_refused_by_name_whatever_follows_it(optimism):
    pair = Pair().connected()
    stream = pair.alice.open_stream("frob")
    pair.alice.send(stream, optimism)
    alice, bob = pair.exchange()
    refused = [event for event in alice if isinstance(event, StreamRefused)]
    assert refused == [StreamRefused(stream, "the peer does not support 'frob'")]
    assert not any(isinstance(event, StreamOpened) for event in bob)
    again = pair.alice.open_stream("echo")
    assert StreamOpened(again, "echo", True) in pair.exchange()[1], "the connection lives on"


def test_a_stream_reset_before_its_protocol_is_agreed_is_refused():
    pair = Pair().connected()
    stream = pair.alice.open_stream("echo")
    pair.exchange()
    other = pair.alice.open_stream("echo")
    pair.bob._mux.reset(other)
    pair.alice.reset(stream)
    _, bob = pair.exchange()
    assert any(isinstance(event, StreamAborted) and event.stream_id == stream for event in bob)


def test_half_close_and_data_in_order():
    pair = Pair().connected()
    stream = pair.alice.open_stream("sink")
    pair.alice.send(stream, b"one")
    pair.alice.end(stream)
    _, bob = pair.exchange()
    assert bob[0] == StreamOpened(stream, "sink", True)
    assert received(bob, stream) == b"one"
    assert bob.index(StreamEnded(stream)) > bob.index(StreamData(stream, b"one"))


def test_back_pressure_reaches_through_the_layers():
    pair = Pair().connected()
    stream = pair.alice.open_stream("sink")
    pair.exchange()
    pair.alice.send(stream, bytes(3 * WINDOW))
    _, bob = pair.exchange()
    got = len(received(bob, stream))
    assert WINDOW - 100 < got <= WINDOW, "negotiation took a few bytes of the window"
    assert pair.alice.unsent(stream) == 3 * WINDOW - got
    pair.bob.grant(stream, got)
    _, bob = pair.exchange()
    assert len(received(bob, stream)) >= WINDOW - 100


def test_large_data_leaves_in_bounded_batches():
    pair = Pair().connected()
    stream = pair.alice.open_stream("sink")
    pair.exchange()
    pair.alice.send(stream, bytes(WINDOW // 2))
    batch = pair.alice.data_to_send()
    assert 200_000 < len(batch) < 270_000


def test_no_stream_before_the_connection_is_open():
    with pytest.raises(UsageError):
        side(ALICE, initiator=True).open_stream("echo")


def test_going_away():
    pair = Pair().connected()
    pair.alice.go_away()
    assert pair.exchange()[1] == [GoneAway(0)]


def test_a_handshake_has_a_deadline():
    alice = side(ALICE, initiator=True)
    assert alice.next_deadline() == 100.0 + HANDSHAKE_TIMEOUT
    alice.handle_deadline(100.0 + HANDSHAKE_TIMEOUT - 1)
    with pytest.raises(HandshakeError, match="15 s"):
        alice.handle_deadline(100.0 + HANDSHAKE_TIMEOUT)


def test_silence_is_answered_with_a_ping_and_then_with_the_end():
    pair = Pair().connected()
    now = pair.alice.next_deadline()
    pair.alice.handle_deadline(now)  # something was heard since: the handshake
    assert pair.alice.data_to_send() == b""
    pair.alice.handle_deadline(now + KEEPALIVE)
    assert pair.alice.data_to_send() != b""
    with pytest.raises(StreamReset, match="silent"):
        pair.alice.handle_deadline(now + 2 * KEEPALIVE)


def test_a_proxy_sees_something_within_each_minute():
    pair = Pair().connected()
    now = pair.alice.next_deadline()
    pair.alice.handle_deadline(now)
    pair.bob._mux.ping(0)  # comes right after the look, so that the next one finds that something was heard
    pair.exchange()
    pair.alice.handle_deadline(now + KEEPALIVE)
    assert pair.alice.data_to_send() == b""
    pair.alice.handle_deadline(pair.alice.next_deadline())
    assert pair.alice.data_to_send() != b""
    assert pair.alice.next_deadline() - KEEPALIVE - now < 60


def test_an_answered_ping_keeps_the_connection():
    pair = Pair().connected()
    now = pair.alice.next_deadline()
    for _ in range(5):
        pair.alice.handle_deadline(now)
        pair.exchange()
        now += KEEPALIVE
    pair.alice.handle_deadline(now)


def test_streams_that_never_agree_are_dropped(monkeypatch):
    pair = Pair().connected()
    stream = pair.alice._mux.open_stream()  # says nothing
    pair.exchange()
    now = pair.bob.next_deadline()
    pair.bob.handle_deadline(now)
    assert pair.bob._mux.stream_count == 1
    pair.exchange()
    pair.bob._heard = True
    pair.bob.handle_deadline(now + KEEPALIVE)
    assert pair.bob._mux.stream_count == 0
    alice, _ = pair.exchange()
    assert any(isinstance(event, StreamAborted) and event.stream_id == stream for event in alice)


def test_refused_streams_whose_peer_keeps_them_are_dropped():
    pair = Pair().connected()
    stream = pair.alice._mux.open_stream()
    pair.alice._mux.send(stream, b"\x13/multistream/1.0.0\n\x02x\n" + b"\xff" * 20)
    pair.exchange()
    pair.alice._mux.send(stream, bytes(1000))
    pair.exchange()
    now = pair.bob.next_deadline()
    for turn in range(2):
        pair.bob._heard = True
        pair.bob.handle_deadline(now + turn * KEEPALIVE)
    assert pair.bob._mux.stream_count == 0


def test_too_many_streams_without_a_protocol_are_reset(monkeypatch):
    monkeypatch.setattr(module, "MAX_NEGOTIATING", 2)
    pair = Pair().connected()
    for _ in range(3):
        pair.alice._mux.open_stream()
    pair.exchange()
    assert pair.bob._mux.stream_count == 2


def test_a_forged_message_ends_the_connection():
    pair = Pair().connected()
    with pytest.raises(ProtocolError, match="forged"):
        pair.bob.receive_data(b"\x00\x20" + bytes(32))


@given(st.binary(max_size=300), st.integers(0, 400), st.booleans())
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes_at_any_point_of_a_handshake_raise_nothing_foreign(junk, after, to_initiator):
    pair = Pair()
    target, source = (pair.alice, pair.bob) if to_initiator else (pair.bob, pair.alice)
    try:
        for _ in range(4):
            target.receive_data(source.data_to_send()[:after])
            source.receive_data(target.data_to_send())
        target.receive_data(junk)
        while target.next_event() is not None:
            pass
        target.data_to_send()
    except KwaaiNetError:
        pass


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes_inside_the_encryption_raise_nothing_foreign(junk):
    pair = Pair().connected()
    sender = pair.alice._secured.sender
    try:
        pair.bob.receive_data(b"".join(sender.encrypt(junk)))
        while pair.bob.next_event() is not None:
            pass
        pair.bob.data_to_send()
    except KwaaiNetError:
        pass

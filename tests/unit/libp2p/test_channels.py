"""Streams over data channels: two sessions joined, what a channel may not do, and noise with its prologue."""

import os

import pytest

from kwaainet.errors import CapacityError, HandshakeError, ProtocolError, StreamReset
from kwaainet.identity.keys import PrivateKey, peer_id
from kwaainet.libp2p import channels, noise
from kwaainet.libp2p.channels import (
    CLOSE,
    DATA,
    FRAME,
    OPEN,
    ChannelHandshake,
    ChannelSession,
    DirectConnection,
    Flag,
    Message,
    prologue,
)
from kwaainet.libp2p.connection import Connected, StreamOpened
from kwaainet.libp2p.delimited import delimit
from kwaainet.libp2p.multistream import Proposer
from kwaainet.libp2p.yamux import StreamAborted, StreamData, StreamEnded, StreamSent, StreamStarted
from kwaainet.native.crypto import NativeCrypto

CRYPTO = NativeCrypto()


def frame(kind: int, channel: int, body: bytes = b"") -> bytes:
    return FRAME.pack(kind, channel, len(body)) + body


def message(channel: int, **fields: object) -> bytes:
    return frame(DATA, channel, delimit(Message(**fields).encode()))  # type: ignore[arg-type]


def sent(session: ChannelSession) -> list[tuple[int, int, bytes]]:
    """(kind, channel, body) of all frames that wait."""
    data, found = session.data_to_send(1 << 30), []
    while data:
        kind, channel, size = FRAME.unpack_from(data)
        found.append((kind, channel, data[FRAME.size : FRAME.size + size]))
        data = data[FRAME.size + size :]
    return found


def events(session: ChannelSession) -> list[object]:
    found = []
    while (event := session.next_event()) is not None:
        found.append(event)
    return found


def accepted() -> ChannelSession:
    session = ChannelSession()
    session.receive_data(frame(OPEN, 2))
    assert events(session) == [StreamStarted(2)]
    return session


def test_a_stream_there_and_back() -> None:
    session = accepted()
    session.receive_data(message(2, message=b"hello"))
    assert events(session) == [StreamData(2, b"hello")]
    session.send(2, b"x" * 40_000)
    assert session.unsent(2) == 40_000
    bodies = [body for _, _, body in sent(session)]
    assert max(map(len, bodies)) <= channels.MAX_MESSAGE
    assert sum(event.size for event in events(session) if isinstance(event, StreamSent)) == 40_000
    assert session.unsent(2) == 0
    session.receive_data(message(2, flag=Flag.FIN))
    assert events(session) == [StreamEnded(2)]
    session.end(2)
    assert [Message.decode(body[1:]).flag for _, _, body in sent(session)] == [Flag.FIN_ACK, Flag.FIN]
    session.receive_data(message(2, flag=Flag.FIN_ACK))
    assert sent(session) == [(CLOSE, 2, b"")]
    assert session.stream_count == 0


def test_messages_may_be_cut_anywhere() -> None:
    session = accepted()
    body = delimit(Message(message=b"a").encode()) + delimit(Message(message=b"b", flag=Flag.FIN).encode())
    for byte in body:
        session.receive_data(frame(DATA, 2, bytes([byte])))
    assert events(session) == [StreamData(2, b"a"), StreamData(2, b"b"), StreamEnded(2)]


def test_our_streams_are_odd_and_reset_by_either_side() -> None:
    session = ChannelSession()
    assert [session.open_stream(), session.open_stream()] == [1, 3]
    assert sent(session) == [(OPEN, 1, b""), (OPEN, 3, b"")]
    session.reset(1)
    kinds = [(kind, channel) for kind, channel, _ in sent(session)]
    assert kinds == [(DATA, 1), (CLOSE, 1)]
    session.receive_data(message(3, flag=Flag.RESET))
    assert events(session) == [StreamAborted(3, "the peer reset the stream")]
    with pytest.raises(StreamReset):
        session.send(3, b"x")
    session.reset(3)
    session.receive_data(message(3, message=b"late"))
    session.receive_data(frame(CLOSE, 3))
    assert events(session) == []


def test_a_channel_that_closes_takes_its_stream_along() -> None:
    session = accepted()
    session.receive_data(frame(CLOSE, 2))
    assert events(session) == [StreamAborted(2, "the peer closed its channel")]


def test_nothing_follows_an_end() -> None:
    session = accepted()
    session.end(2)
    with pytest.raises(StreamReset, match="was ended on this side"):
        session.send(2, b"x")


@pytest.mark.parametrize("data", [frame(OPEN, 3), frame(OPEN, 2), message(2, message=b"")[:-1] + b"\xff"])
def test_what_a_peer_may_not_do(data: bytes) -> None:
    session = accepted()
    with pytest.raises(ProtocolError):
        session.receive_data(data + message(2, flag=0) * 200)


def test_caps_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "MAX_CHANNELS", 2)
    session = accepted()
    session.open_stream()
    with pytest.raises(CapacityError):
        session.open_stream()
    sent(session)
    session.receive_data(frame(OPEN, 4))
    assert sent(session) == [(CLOSE, 4, b"")]
    monkeypatch.setattr(channels, "MAX_UNREAD", 100)
    session.receive_data(message(2, message=b"x" * 60))
    session.grant(2, 60)
    session.receive_data(message(2, message=b"x" * 60))
    assert [type(event) for event in events(session)] == [StreamData, StreamData]
    session.receive_data(message(2, message=b"x" * 60))
    assert events(session) == [StreamAborted(2, "over 100 bytes wait to be read")]


def credentials() -> tuple[PrivateKey, noise.Credentials]:
    identity = PrivateKey(os.urandom(32))
    return identity, noise.Credentials.create(CRYPTO, identity, os.urandom(32))


def shake(ours: bytes, theirs: bytes) -> tuple[ChannelHandshake, noise.Handshake, PrivateKey]:
    """Our side, which begins, and a browser's, each with its idea of the prologue."""
    _, own = credentials()
    identity, other = credentials()
    server = ChannelHandshake(CRYPTO, own, os.urandom(32), ours)
    client = noise.Handshake(CRYPTO, other, os.urandom(32), initiator=False, prologue=theirs)
    for _ in range(4):
        if data := server.data_to_send():
            body = Message.decode(data[1:] if data[0] < 128 else data[2:]).message
            client.receive_data(body or b"")
        if back := client.data_to_send():
            server.receive_data(delimit(Message(message=back).encode()))
    return server, client, identity


def test_noise_proves_who_is_behind_both_certificates() -> None:
    one, other = os.urandom(32), os.urandom(32)
    context = prologue(one, other)
    assert context == b"libp2p-webrtc-noise:\x12\x20" + one + b"\x12\x20" + other
    server, client, identity = shake(context, context)
    assert server.result is not None
    assert client.result is not None
    assert peer_id(server.result.public_key) == peer_id(identity.public(CRYPTO))


def test_another_certificate_in_between_is_noticed() -> None:
    with pytest.raises(HandshakeError):
        shake(prologue(b"a" * 32, b"b" * 32), prologue(b"a" * 32, b"c" * 32))


def test_a_handshake_that_is_given_up() -> None:
    _, own = credentials()
    one = ChannelHandshake(CRYPTO, own, os.urandom(32), b"")
    with pytest.raises(ProtocolError, match="gave the handshake up"):
        one.receive_data(delimit(Message(flag=Flag.RESET).encode()))


def test_protocols_are_agreed_on_each_channel() -> None:
    identity, own = credentials()
    public = identity.public(CRYPTO)
    machine = DirectConnection(
        CRYPTO, own, supports=lambda name: name == "echo", now=0.0, peer=peer_id(public), public_key=public
    )
    assert machine.next_event() == Connected(peer_id(public), public)
    machine.receive_data(frame(OPEN, 2) + message(2, message=Proposer(["echo"]).data_to_send() + b"hi"))
    assert machine.next_event() == StreamOpened(2, "echo", True)
    assert machine.next_event() == StreamData(2, b"hi")
    machine.handle_deadline(1000.0)
    machine.handle_deadline(2000.0)  # never too silent: ICE watches that
    assert b"echo" in machine.data_to_send()

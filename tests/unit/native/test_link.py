"""Links over a wire that records: flushing, pausing, failing, deadlines."""

import asyncio

import pytest

from kwaainet.errors import HandshakeError, StreamReset
from kwaainet.identity.keys import PrivateKey, peer_id
from kwaainet.libp2p import noise
from kwaainet.libp2p.connection import KEEPALIVE, Connection
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.native import link as module
from kwaainet.native.crypto import NativeCrypto
from kwaainet.native.link import Link

from .relay_scene import passing

CRYPTO = NativeCrypto()
ADDRESS = Multiaddr.parse("/ip4/1.2.3.4/tcp/5")
OTHER = PrivateKey(b"o" * 32)
OTHER_ID = peer_id(OTHER.public(CRYPTO))


class Wire:
    def __init__(self):
        self.sent = []
        self.closed = False

    def write(self, data):
        self.sent.append(data)

    def close(self):
        self.closed = True

    def take(self):
        data, self.sent = b"".join(self.sent), []
        return data


class Owner:
    def __init__(self):
        self.crypto = CRYPTO
        self.credentials = noise.Credentials.create(CRYPTO, PrivateKey(b"m" * 32), b"m" * 32)
        self.log = []

    def supports(self, protocol):
        return protocol == "echo"

    def link_opened(self, link):
        self.log.append("opened")

    def link_closed(self, link, reason):
        self.log.append(reason)

    def stream_opened(self, stream):
        self.log.append(stream.protocol)


class Scene:
    """A link under test, and the machine at the other end of its wire."""

    def __init__(self, **options):
        self.wire, self.owner = Wire(), Owner()
        self.link = Link(self.owner, self.wire, ADDRESS, initiator=False, **options)
        self.other = Connection(
            crypto=CRYPTO,
            credentials=noise.Credentials.create(CRYPTO, OTHER, b"o" * 32),
            ephemeral=b"e" * 32,
            initiator=True,
            supports=lambda protocol: True,
            now=0.0,
        )

    async def exchange(self):
        for _ in range(6):
            if data := self.other.data_to_send():
                self.link.receive(memoryview(data))
            await asyncio.sleep(0)
            if data := self.wire.take():
                self.other.receive_data(data)
            while self.other.next_event() is not None:
                pass


def run(test):
    return asyncio.run(asyncio.wait_for(test, 60))


def test_a_link_opens_and_its_owner_learns_of_it_and_of_streams():
    async def main():
        scene = Scene()
        await scene.exchange()
        assert await scene.link.ready == OTHER_ID
        scene.other.open_stream("echo")
        scene.other.open_stream("nope")
        await scene.exchange()
        assert scene.owner.log == ["opened", "echo"]
        assert scene.link.remote_peer == OTHER_ID

    run(main())


def test_nobody_is_at_the_other_end_before_the_handshake():
    async def main():
        with pytest.raises(HandshakeError, match="has not proved"):
            _ = Scene().link.remote_peer

    run(main())


def test_a_paused_wire_is_given_nothing():
    async def main():
        scene = Scene()
        await scene.exchange()
        stream = scene.link.open_stream("sink")
        await scene.exchange()
        scene.link.pause()
        stream.write(bytes(100_000))
        await asyncio.sleep(0)
        assert scene.wire.sent == []
        assert stream.unsent == 100_000
        scene.link.resume()
        await asyncio.sleep(0)
        assert stream.unsent == 0

    run(main())


def test_what_is_written_in_one_turn_leaves_in_one_write():
    async def main():
        scene = Scene()
        await scene.exchange()
        stream = scene.link.open_stream("sink")
        for _ in range(10):
            stream.write(b"piece")
        await asyncio.sleep(0)
        assert len(scene.wire.sent) == 1

    run(main())


def test_nonsense_closes_the_link_and_says_why():
    async def main():
        scene = Scene()
        scene.link.receive(b"GET / HTTP/1.1\r\n\r\n" * 100)
        assert scene.wire.closed
        assert scene.link.closed
        with pytest.raises(Exception, match=r"message of 71 bytes|newline|opened with"):
            await scene.link.ready
        scene.link.receive(b"more")
        assert len(scene.owner.log) == 1

    run(main())


def test_closing_says_goodbye_even_while_paused():
    async def main():
        scene = Scene()
        await scene.exchange()
        scene.link.pause()
        scene.link.close("enough")
        assert scene.wire.sent
        assert scene.wire.closed
        assert scene.owner.log == ["opened", "enough"]

    run(main())


def test_a_handshake_that_does_not_come_ends_the_link(monkeypatch):
    async def main():
        monkeypatch.setattr("kwaainet.libp2p.connection.HANDSHAKE_TIMEOUT", 0.01)
        scene = Scene()
        with pytest.raises(HandshakeError, match="did not finish"):
            await scene.link.ready
        assert scene.wire.closed

    run(main())


def test_a_silent_peer_is_pinged_and_then_dropped(monkeypatch):
    async def main():
        let_pass = passing(monkeypatch)
        scene = Scene()
        await scene.exchange()
        stream = scene.link.open_stream("echo")
        await scene.exchange()
        scene.wire.take()
        reading = asyncio.ensure_future(stream.read())
        for _ in range(3):  # the first look heard something, the second asks
            assert not scene.link.closed
            await let_pass(KEEPALIVE)
        with pytest.raises(StreamReset, match="silent"):
            await reading
        assert "silent" in scene.owner.log[-1]
        assert len(scene.wire.sent) == 2, "a ping, and a farewell"

    asyncio.run(main())


def test_a_reader_that_makes_no_room_in_time_is_let_go(monkeypatch):
    async def main():
        monkeypatch.setattr(module, "STALL", 0.02)
        scene = Scene()
        await scene.exchange()
        assert scene.owner.log == ["opened"]
        scene.link.pause()
        scene.link.resume()
        await asyncio.sleep(0.05)
        assert not scene.link.closed, "it made room"
        scene.link.pause()
        while not scene.link.closed:
            await scene.exchange()  # pings and sends all the while
        assert scene.wire.closed
        assert "took too little" in scene.owner.log[-1]

    asyncio.run(asyncio.wait_for(main(), 60))

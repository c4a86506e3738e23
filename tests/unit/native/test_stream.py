"""Streams as asyncio code sees them, over two connection machines in memory."""

import asyncio

import pytest

from kwaainet.errors import HandshakeError, LimitExceeded, ProtocolError, StreamReset
from kwaainet.identity.keys import PrivateKey, peer_id
from kwaainet.libp2p import noise
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.libp2p.yamux import WINDOW
from kwaainet.native import stream as module
from kwaainet.native.crypto import NativeCrypto
from kwaainet.native.link import Link
from kwaainet.native.stream import HIGH_WATER

CRYPTO = NativeCrypto()


class Side:
    """A link's owner that serves every protocol but ``nope`` and keeps inbound streams."""

    def __init__(self, seed):
        key = PrivateKey(seed * 32)
        self.crypto = CRYPTO
        self.credentials = noise.Credentials.create(CRYPTO, key, seed * 32)
        self.peer = peer_id(key.public(CRYPTO))
        self.streams = asyncio.Queue()
        self.closed = []

    def supports(self, protocol):
        return protocol != "nope"

    def link_opened(self, link):
        pass

    def link_closed(self, link, reason):
        self.closed.append(reason)

    def stream_opened(self, stream):
        self.streams.put_nowait(stream)


class Pipe:
    """A wire whose bytes arrive at the other link in the next turn of the loop."""

    def __init__(self):
        self.target = None
        self.open = True

    def write(self, data):
        asyncio.get_running_loop().call_soon(self.deliver, data)

    def deliver(self, data):
        if self.open:
            self.target.receive(data)

    def close(self):
        asyncio.get_running_loop().call_soon(self.target.lost, "closed")


async def linked():
    """(dialling side, its link, answering side, its link), handshake done."""
    alice, bob = Side(b"a"), Side(b"b")
    forth, back = Pipe(), Pipe()
    address = Multiaddr.parse("/memory/1")
    one = Link(alice, forth, address, initiator=True, expected_peer=bob.peer)
    other = Link(bob, back, address, initiator=False)
    forth.target, back.target = other, one
    await asyncio.gather(one.ready, other.ready)
    return alice, one, bob, other


async def streams():
    """(link, the dialling end, the answering end) of one stream."""
    _, link, bob, _ = await linked()
    stream = link.open_stream("echo")
    await stream.opened()
    return link, stream, await bob.streams.get()


async def settle():
    """Let everything happen that needs no time to pass."""
    for _ in range(200):
        await asyncio.sleep(0)


def run(test):
    return asyncio.run(asyncio.wait_for(test, 60))


def test_bytes_pass_both_ways_and_ends_are_seen():
    async def main():
        _, ours, theirs = await streams()
        ours.write(b"hello")
        assert await theirs.read() == b"hello"
        ours.finish()
        assert await theirs.read() == b""
        theirs.write(b"still open")
        assert await ours.read() == b"still open"
        theirs.finish()
        assert await ours.read() == b""
        assert await ours.read() == b""

    run(main())


def test_messages():
    async def main():
        _, ours, theirs = await streams()
        for message in (b"", b"one", bytes(300)):
            ours.write_message(message)
        assert [await theirs.read_message(300) for _ in range(3)] == [b"", b"one", bytes(300)]
        ours.finish()
        assert await theirs.read_message(300) is None

    run(main())


def test_a_message_over_the_cap_and_one_cut_short_are_refused():
    async def main():
        _, ours, theirs = await streams()
        ours.write_message(bytes(11))
        with pytest.raises(LimitExceeded):
            await theirs.read_message(10)
        _, ours, theirs = await streams()
        ours.write(b"\x05abc")
        ours.finish()
        with pytest.raises(ProtocolError, match="within a message"):
            await theirs.read_message(10)

    run(main())


def test_a_refused_stream_says_so_to_reader_and_opener():
    async def main():
        _, link, _, _ = await linked()
        stream = link.open_stream("nope")
        stream.write(b"optimistic")
        with pytest.raises(HandshakeError, match="'nope'"):
            await stream.opened()
        with pytest.raises(HandshakeError, match="'nope'"):
            await stream.read()
        with pytest.raises(HandshakeError, match="'nope'"):
            stream.write(b"more")

    run(main())


def test_drain_waits_for_a_reader_that_sleeps():
    async def main():
        _, ours, theirs = await streams()
        ours.write(bytes(2 * WINDOW))
        drained = asyncio.ensure_future(ours.drain())
        await settle()
        assert not drained.done()
        assert ours.unsent > HIGH_WATER
        got = 0
        while got < 2 * WINDOW:
            got += len(await theirs.read())
        await drained

    run(main())


def test_a_reset_reaches_the_other_end_behind_what_had_arrived():
    async def main():
        _, ours, theirs = await streams()
        ours.write(b"last words")
        await settle()
        ours.reset()
        await settle()
        assert await theirs.read() == b"last words"
        with pytest.raises(StreamReset):
            await theirs.read()
        with pytest.raises(StreamReset):
            theirs.write(b"x")
        with pytest.raises(StreamReset):
            await ours.read()
        theirs.finish()
        theirs.reset()

    run(main())


def test_who_waits_to_read_gets_what_came_right_before_the_connection_was_lost():
    async def main():
        link, ours, theirs = await streams()
        reading = asyncio.ensure_future(ours.read())
        await asyncio.sleep(0)  # it waits
        theirs.write(b"farewell")
        while not ours._chunks:
            await asyncio.sleep(0)
        link.lost("the wire is cut")
        assert bytes(await reading) == b"farewell"
        with pytest.raises(StreamReset, match="the wire is cut"):
            await ours.read()

    asyncio.run(main())


def test_a_lost_connection_ends_its_streams_and_tells_once():
    async def main():
        alice, link, bob, _ = await linked()
        stream = link.open_stream("echo")
        reading = asyncio.ensure_future(stream.read())
        await stream.opened()
        link.close("enough")
        link.lost("again")
        with pytest.raises(StreamReset, match="enough"):
            await reading
        with pytest.raises(StreamReset):
            link.open_stream("echo")
        await settle()
        assert (alice.closed, len(bob.closed)) == (["enough"], 1)

    run(main())


def test_on_gone_is_called_once_when_the_peer_leaves():
    async def main():
        _, ours, theirs = await streams()
        calls = []
        theirs.on_gone = lambda: calls.append(1)
        ours.finish()
        await settle()
        ours.reset()
        await settle()
        assert calls == [1]

    run(main())


def test_a_closed_stream_drops_what_comes_and_does_not_wait_for_ever(monkeypatch):
    async def main():
        monkeypatch.setattr(module, "LINGER", 0.05)
        link, ours, theirs = await streams()
        sink = Recorder()
        ours.attach(sink)
        theirs.close()
        ours.write(bytes(3 * WINDOW))
        await settle()
        assert ours.unsent == 0
        await sink.gone.wait()
        assert link.machine._mux.stream_count == 0

    run(main())


class Recorder:
    """A sink."""

    def __init__(self):
        self.seen = []
        self.gone = asyncio.Event()

    def stream_data(self, data):
        self.seen.append(bytes(data))

    def stream_sent(self):
        self.seen.append("sent")

    def stream_ended(self):
        self.seen.append("ended")

    def stream_gone(self, error):
        self.seen.append("gone")
        self.gone.set()


def test_a_sink_gets_what_was_buffered_first_and_then_everything():
    async def main():
        _, ours, theirs = await streams()
        ours.write(b"\x01aleft over")
        assert await theirs.read_message(10) == b"a"
        await settle()
        sink = Recorder()
        theirs.attach(sink)
        ours.write(b"more")
        await settle()
        theirs.write(b"x")
        await settle()
        ours.finish()
        await settle()
        ours.reset()
        await settle()
        assert sink.seen == [b"left over", b"more", "sent", "ended", "gone"]

    run(main())


def test_a_sink_attached_late_learns_of_the_end():
    async def main():
        _, ours, theirs = await streams()
        ours.finish()
        await settle()
        sink = Recorder()
        theirs.attach(sink)
        ours.reset()
        await settle()
        late = Recorder()
        theirs.attach(late)
        assert sink.seen == ["ended", "gone"]
        assert late.seen == ["gone"]

    run(main())


def test_an_end_and_a_reset_that_arrive_together_end_that_stream_only():
    async def main():
        link, ours, theirs = await streams()
        other = link.open_stream("echo")
        await other.opened()

        class Answering(Recorder):
            def stream_ended(self):
                theirs.finish()

        sink = Answering()
        theirs.attach(sink)
        pipe, held = link._wire, []
        pipe.write = held.append
        ours.finish()
        await settle()
        ours.reset()
        await settle()
        del pipe.write
        assert len(held) == 2
        pipe.deliver(b"".join(held))
        assert sink.seen == ["gone"]
        other.write(b"still here")
        await settle()
        assert not link.closed

    run(main())


def test_what_a_sink_does_not_grant_stops_the_sender():
    async def main():
        _, ours, theirs = await streams()
        sink = Recorder()
        theirs.attach(sink)
        ours.write(bytes(2 * WINDOW))
        await settle()
        got = sum(map(len, sink.seen))
        assert got <= WINDOW
        theirs.grant(got)
        await settle()
        assert sum(map(len, sink.seen)) > got

    run(main())

"""RPCs over the host's streams: what callers see when things go wrong, and what is bounded."""

import asyncio
import os

import pytest

from kwaainet.errors import LimitExceeded, ProtocolError, RpcError, StreamReset
from kwaainet.identity.keys import PrivateKey
from kwaainet.native import rpc as module
from kwaainet.native.host import NativeHost
from kwaainet.native.rpc import Budget
from kwaainet.types import PeerId
from kwaainet.wire.rpc import MAX_FRAME_SIZE


async def pair():
    """(server, client), connected."""
    server = await NativeHost.create(PrivateKey(os.urandom(32)), ["/ip4/127.0.0.1/tcp/0"])
    client = await NativeHost.create(PrivateKey(os.urandom(32)))
    await server.listen()
    await client.connect(server.addresses[0])
    return server, client


async def close(server, client):
    await client.close()
    await server.close()


def run(test):
    return asyncio.run(asyncio.wait_for(test, 60))


def test_a_caller_that_leaves_cancels_a_unary_handler():
    async def main():
        server, client = await pair()
        started, cancelled = asyncio.Event(), asyncio.Event()

        async def hang(peer, request):
            started.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                cancelled.set()

        server.handle_unary("T.hang", hang)
        calling = asyncio.ensure_future(client.call(server.peer_id, "T.hang", b"", timeout=60))
        await started.wait()
        calling.cancel()
        await cancelled.wait()
        await close(server, client)

    run(main())


def test_a_reply_over_the_cap_is_an_error_not_a_silence():
    async def main():
        server, client = await pair()

        async def huge(peer, request):
            return bytes(5 << 20)

        server.handle_unary("T.huge", huge)
        with pytest.raises(RpcError, match="exceeds"):
            await client.call(server.peer_id, "T.huge", b"", timeout=60)
        await close(server, client)

    run(main())


def test_a_callee_that_closes_without_a_reply():
    async def main():
        server, client = await pair()

        async def nothing(stream):
            await stream.read()
            stream.close()

        server.handle_raw("T.nothing", nothing)
        with pytest.raises(StreamReset, match="without a reply"):
            await client.call(server.peer_id, "T.nothing", b"", timeout=60)
        await close(server, client)

    run(main())


def test_nonsense_from_a_callee_is_its_fault():
    async def main():
        server, client = await pair()

        async def nonsense(stream):
            stream.write(b"\x05hello" * 10)
            await stream.read()

        server.handle_raw("T.nonsense", nonsense)
        with pytest.raises(ProtocolError):
            await client.call(server.peer_id, "T.nonsense", b"", timeout=60)
        stream = await client.open_stream(server.peer_id, "T.nonsense", timeout=60)
        with pytest.raises(ProtocolError, match="marker"):
            await stream.receive()
        await stream.close()
        await close(server, client)

    run(main())


def test_nonsense_from_a_caller_ends_its_stream_only():
    async def main():
        server, client = await pair()

        async def echo(stream):
            while (message := await stream.receive()) is not None:
                await stream.send(message)

        async def upper(peer, request):
            return request.upper()

        server.handle_stream("T.echo", echo)
        server.handle_unary("T.upper", upper)
        raw = await client.open_raw(server.peer_id, "T.echo", timeout=60)
        raw.write(b"\xff" * 40)
        assert b"frame marker is 0xff" in await raw.read()
        raw = await client.open_raw(server.peer_id, "T.upper", timeout=60)
        raw.write(b"\xff" * 40)
        with pytest.raises(StreamReset):
            await raw.read()
        assert await client.call(server.peer_id, "T.upper", b"alive", timeout=60) == b"ALIVE"
        await close(server, client)

    run(main())


def test_a_frame_over_the_cap_is_refused_before_it_comes():
    async def main():
        server, client = await pair()
        seen = asyncio.get_running_loop().create_future()

        async def receive(stream):
            try:
                await stream.receive()
            except Exception as error:
                seen.set_result(error)
                raise

        server.handle_stream("T.receive", receive)
        raw = await client.open_raw(server.peer_id, "T.receive", timeout=60)
        raw.write(b"\0" + (MAX_FRAME_SIZE + 1).to_bytes(8, "big"))
        assert isinstance(await seen, LimitExceeded)
        assert f"exceeds {MAX_FRAME_SIZE}".encode() in await raw.read()  # and its caller is told
        await close(server, client)

    run(main())


def test_unfinished_messages_have_a_budget_for_all_streams_together():
    async def main():
        server, client = await pair()
        server._budget = Budget(100_000)
        outcome = asyncio.Queue()

        async def receive(stream):
            try:
                await stream.receive()
                outcome.put_nowait("whole")
            except LimitExceeded as error:
                outcome.put_nowait(str(error))
                raise

        server.handle_stream("T.receive", receive)
        unfinished = b"\0" + (200_000).to_bytes(8, "big") + bytes(60_000)
        first = await client.open_raw(server.peer_id, "T.receive", timeout=60)
        first.write(unfinished)
        second = await client.open_raw(server.peer_id, "T.receive", timeout=60)
        second.write(unfinished)
        assert "try again later" in await outcome.get()
        first.reset()
        third = await client.open_stream(server.peer_id, "T.receive", timeout=60)
        while server._budget._left < 100_000:
            await asyncio.sleep(0)
        await third.send(bytes(50_000))
        assert await outcome.get() == "whole"
        await third.close()
        await close(server, client)

    run(main())


def test_budgets_count():
    one, other = PeerId(b"\0\1a"), PeerId(b"\0\1b")
    budget = Budget(10, limit_per_peer=6)
    budget.take(one, 6)
    with pytest.raises(LimitExceeded, match="are yours"):
        budget.take(one, 1)
    budget.take(other, 4)
    with pytest.raises(LimitExceeded, match="try again later"):
        budget.take(other, 1)
    budget.give_back(one, 1)
    budget.take(other, 1)


def test_a_callee_that_is_done_waits_for_its_caller_only_briefly(monkeypatch):
    async def main():
        monkeypatch.setattr(module, "END_SECONDS", 0.02)
        server, client = await pair()

        async def one(stream):
            await stream.send(b"only this")

        server.handle_stream("T.one", one)
        stream = await client.open_stream(server.peer_id, "T.one", timeout=60)
        assert await stream.receive() == b"only this"
        assert await stream.receive() is None
        await stream.close()
        await close(server, client)

    run(main())


def test_a_handler_that_closes_first_and_sends_then_is_told():
    async def main():
        server, client = await pair()
        seen = asyncio.get_running_loop().create_future()

        async def confused(stream):
            await stream.close()
            try:
                await stream.send(b"too late")
            except StreamReset as error:
                seen.set_result(str(error))

        server.handle_stream("T.confused", confused)
        stream = await client.open_stream(server.peer_id, "T.confused", timeout=60)
        await stream.end()
        assert await stream.receive() is None
        assert "closed on this side" in await seen
        await stream.close()
        await close(server, client)

    run(main())


def test_a_vanished_caller_ends_receiving_and_sending():
    async def main():
        server, client = await pair()
        seen, started = asyncio.Queue(), asyncio.Event()

        async def wait(stream):
            started.set()
            for attempt in (stream.receive, lambda: stream.send(b"x")):
                try:
                    await attempt()
                except StreamReset as error:
                    seen.put_nowait(str(error))

        server.handle_stream("T.wait", wait)
        await client.open_stream(server.peer_id, "T.wait", timeout=60)
        await started.wait()
        await client.close()
        assert "gone" in await seen.get()
        assert "gone" in await seen.get()
        await server.close()

    run(main())


def test_a_request_that_does_not_come_whole_in_time_ends_its_stream(monkeypatch):
    async def main():
        server, client = await pair()

        async def upper(peer, request):
            return request.upper()

        server.handle_unary("T.upper", upper)
        with monkeypatch.context() as hurried:
            hurried.setattr(module, "REQUEST_SECONDS", 0.05)
            raw = await client.open_raw(server.peer_id, "T.upper", timeout=60)
            raw.write(b"\x00\x00")
            with pytest.raises(StreamReset):
                await raw.read()
        assert await client.call(server.peer_id, "T.upper", b"alive", timeout=60) == b"ALIVE"
        await close(server, client)

    run(main())

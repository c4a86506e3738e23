"""The ends of a stream in memory."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kwaainet.errors import RpcError, StreamReset, UsageError
from kwaainet.testing.clock import now, run
from kwaainet.testing.stream import WINDOW, MemoryStream, pair
from kwaainet.types import PeerId

A, B = PeerId(b"\x00\x01a"), PeerId(b"\x00\x01b")

Scene = Callable[[MemoryStream, MemoryStream], Awaitable[None]]


def play(scene: Scene, delay: Callable[[], float] = lambda: 0.1) -> None:
    async def main() -> None:
        await scene(*pair(A, B, delay, lambda: False))

    run(main())


def test_messages_keep_their_order_though_delays_vary() -> None:
    delays = iter([0.5, 0.1, 0.3, 0.0, 0.2])

    async def scene(caller: MemoryStream, callee: MemoryStream) -> None:
        for number in range(5):
            await caller.send(bytes([number]))
        assert [await callee.receive() for _ in range(5)] == [bytes([n]) for n in range(5)]
        assert (caller.remote_peer, callee.remote_peer) == (B, A)

    play(scene, lambda: next(delays))


def test_the_sender_waits_for_the_window() -> None:
    async def scene(caller: MemoryStream, callee: MemoryStream) -> None:
        await caller.send(bytes(WINDOW))
        sending = asyncio.create_task(caller.send(b"more"))
        await asyncio.sleep(10)
        assert not sending.done()
        await callee.receive()
        await sending
        assert now() > 10

    play(scene)


def test_after_end_nothing_is_sent_and_all_is_read() -> None:
    async def scene(caller: MemoryStream, callee: MemoryStream) -> None:
        await caller.send(b"last")
        await caller.end()
        await caller.end()
        with pytest.raises(UsageError, match="after end"):
            await caller.send(b"x")
        assert await callee.receive() == b"last"
        assert await callee.receive() is None
        assert await callee.receive() is None
        await callee.send(b"still listening")
        assert await caller.receive() == b"still listening"

    play(scene)


def test_end_is_the_callers() -> None:
    async def scene(caller: MemoryStream, callee: MemoryStream) -> None:
        with pytest.raises(UsageError, match="caller"):
            await callee.end()

    play(scene)


def test_a_callee_that_closes_ends_the_stream() -> None:
    async def scene(caller: MemoryStream, callee: MemoryStream) -> None:
        await callee.send(b"bye")
        await callee.close()
        assert await caller.receive() == b"bye"
        assert await caller.receive() is None
        with pytest.raises(StreamReset):
            await caller.send(b"x")
        with pytest.raises(StreamReset):
            await callee.receive()
        with pytest.raises(StreamReset):
            await callee.send(b"x")

    play(scene)


def test_a_caller_that_closes_cancels() -> None:
    async def scene(caller: MemoryStream, callee: MemoryStream) -> None:
        await caller.send(b"question")
        await caller.close()
        assert await callee.receive() == b"question"
        for _ in range(2):
            with pytest.raises(StreamReset):
                await callee.receive()
        with pytest.raises(StreamReset):
            await callee.send(b"answer")

    play(scene)


def test_a_failure_comes_after_what_was_sent() -> None:
    async def scene(caller: MemoryStream, callee: MemoryStream) -> None:
        await callee.send(b"part")
        callee.fail("out of memory")
        assert await caller.receive() == b"part"
        for _ in range(2):
            with pytest.raises(RpcError, match="out of memory"):
                await caller.receive()

    play(scene)


def test_a_broken_connection_wakes_both_ends() -> None:
    async def scene(caller: MemoryStream, callee: MemoryStream) -> None:
        await caller.send(bytes(WINDOW))
        waiting = [asyncio.create_task(caller.send(b"x")), asyncio.create_task(caller.receive())]
        await asyncio.sleep(1)
        caller.break_off()
        for task in waiting:
            with pytest.raises(StreamReset):
                await task

    play(scene)


def test_lingering_ends_with_the_caller_or_with_patience() -> None:
    async def scene(caller: MemoryStream, callee: MemoryStream) -> None:
        await callee.linger(5)
        assert now() == pytest.approx(1_700_000_005)
        await caller.send(b"ignored")
        await caller.end()
        await callee.linger(100)
        assert now() < 1_700_000_006

    play(scene)

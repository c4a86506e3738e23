from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kwaainet.errors import DeviceLost, RequestError, StreamReset
from kwaainet.node.inbox import MAX_PUSHED, PIPELINED, READ_AHEAD, Inbox
from kwaainet.testing.clock import now, run
from kwaainet.testing.stream import MemoryStream, pair
from kwaainet.types import PeerId
from kwaainet.wire.messages import ExpertRequest

ONE, OTHER = (PeerId(bytes.fromhex("002408011220") + bytes([number] * 32)) for number in (1, 2))
STEP = ExpertRequest("m.0")


def with_inbox(test: Callable[[MemoryStream, Inbox], Awaitable[None]]) -> None:
    async def main() -> None:
        ours, theirs = pair(ONE, OTHER, lambda: 0.01, lambda: False)
        async with Inbox(theirs) as inbox:
            await test(ours, inbox)

    run(main())


def test_messages_and_pushes_are_served_as_they_come() -> None:
    async def test(caller: MemoryStream, inbox: Inbox) -> None:
        await caller.send(b"a")
        await asyncio.sleep(1)
        assert inbox.push(STEP, 10)
        await caller.send(b"b")
        await caller.end()
        arrivals = [await inbox.receive(5.0) for _ in range(4)]
        assert [arrival.message for arrival in arrivals] == [b"a", None, b"b", None]
        assert [arrival.pushed for arrival in arrivals] == [None, STEP, None, None]

    with_inbox(test)


def test_a_flood_of_messages_is_left_with_its_sender() -> None:
    async def test(caller: MemoryStream, inbox: Inbox) -> None:
        for _ in range(100):
            await caller.send(b"x")
        await asyncio.sleep(1)
        assert inbox._bytes() == PIPELINED
        for _ in range(100):
            assert (await inbox.receive(5.0)).message == b"x"

    with_inbox(test)


def test_large_messages_are_not_read_ahead() -> None:
    async def test(caller: MemoryStream, inbox: Inbox) -> None:
        sending = [asyncio.ensure_future(caller.send(bytes(READ_AHEAD))) for _ in range(3)]
        await asyncio.sleep(1)
        assert inbox._bytes() == READ_AHEAD  # one; the others wait in their sender
        for _ in sending:
            assert len((await inbox.receive(5.0)).message or b"") == READ_AHEAD
        await asyncio.gather(*sending)

    with_inbox(test)


def test_pushes_past_their_bounds_are_dropped_and_the_stream_goes_on() -> None:
    async def test(caller: MemoryStream, inbox: Inbox) -> None:
        assert not inbox.push(STEP, READ_AHEAD + 1)
        assert [inbox.push(STEP, 1) for _ in range(MAX_PUSHED + 1)] == [True] * MAX_PUSHED + [False]
        await caller.send(b"own")
        for _ in range(MAX_PUSHED):
            assert (await inbox.receive(5.0)).pushed is STEP
        assert (await inbox.receive(5.0)).message == b"own"
        assert inbox.push(STEP, 1)

    with_inbox(test)


def test_silence_is_an_error_after_its_time() -> None:
    async def test(caller: MemoryStream, inbox: Inbox) -> None:
        started = now()
        with pytest.raises(RequestError, match="no request came for 7 s"):
            await inbox.receive(7.0)
        assert now() - started == pytest.approx(7.0)

    with_inbox(test)


def test_a_failure_wakes_who_waits_and_comes_before_what_waits() -> None:
    async def test(caller: MemoryStream, inbox: Inbox) -> None:
        waiting = asyncio.ensure_future(inbox.receive(5.0))
        await asyncio.sleep(1)
        inbox.fail(DeviceLost("gone"))
        with pytest.raises(DeviceLost):
            await waiting
        assert not inbox.is_open()
        inbox.push(STEP, 1)
        with pytest.raises(DeviceLost):
            await inbox.receive(5.0)

    with_inbox(test)


def test_work_for_a_caller_who_leaves_is_given_up() -> None:
    async def test(caller: MemoryStream, inbox: Inbox) -> None:
        working = asyncio.ensure_future(inbox.unless_gone(asyncio.sleep(100)))
        await asyncio.sleep(1)
        await caller.close()
        with pytest.raises(StreamReset):
            await working

    with_inbox(test)

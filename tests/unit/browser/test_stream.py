"""A stream's endings and windows, message by message."""

import asyncio
from typing import Any

import pytest

from kwaainet.browser.messages import FRAME_HEADER_SIZE, STREAM_WINDOW
from kwaainet.browser.stream import CREDIT_STEP, BrowserStream
from kwaainet.errors import RpcError, StreamReset, UsageError
from kwaainet.testing.clock import run
from kwaainet.types import PeerId

PEER = PeerId(bytes.fromhex("002408011220") + bytes(32))


def _stream(*, is_caller: bool) -> tuple[BrowserStream, list[Any]]:
    posted: list[Any] = []
    return BrowserStream(7, PEER, posted.append, is_caller=is_caller), posted


def test_what_arrived_is_read_before_the_ending() -> None:
    async def main() -> None:
        stream, _ = _stream(is_caller=True)
        stream.on_data(b"one")
        stream.on_data(b"")
        stream.on_failure(RpcError("out of cache"))
        assert await stream.receive() == b"one"
        assert await stream.receive() == b""
        for _again in range(2):
            with pytest.raises(RpcError, match="out of cache"):
                await stream.receive()

    run(main())


def test_the_end_of_the_caller_leaves_the_callee_free_to_answer() -> None:
    async def main() -> None:
        stream, posted = _stream(is_caller=False)
        stream.on_end()
        assert await stream.receive() is None
        await stream.send(b"late")
        await stream.close()
        await stream.close()
        assert [message["type"] for message in posted] == ["data", "close"]

    run(main())


def test_a_callee_that_closed_cannot_be_written_to() -> None:
    async def main() -> None:
        stream, posted = _stream(is_caller=True)
        stream.on_close()
        assert await stream.receive() is None
        with pytest.raises(StreamReset):
            await stream.send(b"x")
        await stream.end()
        await stream.close()
        assert posted == []
        assert await stream.receive() is None, "the end stays the end"

    run(main())


def test_a_sender_waits_for_credit_and_is_freed_by_a_failure() -> None:
    async def main() -> None:
        stream, posted = _stream(is_caller=False)
        await stream.send(bytes(STREAM_WINDOW))
        second = asyncio.create_task(stream.send(b"second"))
        await asyncio.sleep(1)
        assert len(posted) == 1
        stream.on_credit(FRAME_HEADER_SIZE + 1)
        await second
        assert posted[-1]["body"] == b"second"
        third = asyncio.create_task(stream.send(b"third"))
        await asyncio.sleep(1)
        stream.on_failure(StreamReset("the caller closed the stream"))
        with pytest.raises(StreamReset, match="the caller closed"):
            await third

    run(main())


def test_credit_is_given_in_lumps_for_what_was_taken() -> None:
    async def main() -> None:
        stream, posted = _stream(is_caller=True)
        for _ in range(10):
            stream.on_data(bytes(CREDIT_STEP // 4))
        assert posted == []
        for _ in range(10):
            await stream.receive()
        credited = [message["bytes"] for message in posted]
        assert len(credited) == 2
        assert all(size >= CREDIT_STEP for size in credited)

    run(main())


def test_misuse_is_named() -> None:
    async def main() -> None:
        caller, _ = _stream(is_caller=True)
        await caller.end()
        with pytest.raises(UsageError, match="after end"):
            await caller.send(b"x")
        callee, _ = _stream(is_caller=False)
        with pytest.raises(UsageError, match="the caller's"):
            await callee.end()

    run(main())


def test_a_caller_that_closes_early_cancels() -> None:
    async def main() -> None:
        stream, posted = _stream(is_caller=True)
        await stream.close()
        assert [message["type"] for message in posted] == ["cancel"]
        with pytest.raises(StreamReset, match="this side"):
            await stream.receive()

    run(main())


def test_refusing_says_why_once() -> None:
    async def main() -> None:
        stream, posted = _stream(is_caller=False)
        stream.refuse("no such block")
        await stream.close()
        assert posted == [{"type": "fault", "id": 7, "error": "RpcError", "message": "no such block"}]

    run(main())

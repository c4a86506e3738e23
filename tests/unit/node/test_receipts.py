"""Receipts: what was computed is counted while it lasts, and told once it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any

import numpy as np
import pytest

from kwaainet.compression.codec import serialize
from kwaainet.errors import EngineError, RpcError
from kwaainet.node.admission import Admission
from kwaainet.node.config import NodeConfig
from kwaainet.node.model import load_span
from kwaainet.node.receipts import Receipt, Receipts
from kwaainet.node.rpc import TransformerConnectionHandler
from kwaainet.node.span import ServedSpan
from kwaainet.ports import Stream
from kwaainet.swarm import blocks
from kwaainet.testing.clock import now, run
from kwaainet.testing.faults import FaultyEngine
from kwaainet.testing.host import MemoryNetwork
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertRequest

SPAN, ASKED = BlockRange(0, 3), BlockRange(1, 3)
CONFIG = NodeConfig("tiny", SPAN, cache_tokens=96)
MANIFEST, FILES = random_model()
NOTHING = np.zeros(0, np.float32)


def hidden(batch: int, tokens: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((batch, tokens, TINY.hidden_size), np.float32)


def request(states: np.ndarray, **metadata: Any) -> bytes:
    metadata["args_structure"] = ((b"__T0", b"__T1"), {})
    tensors = serialize(states), serialize(NOTHING)
    return ExpertRequest(blocks.join("tiny", ASKED), tensors, msgpack.dumps(metadata)).encode()


class Served:
    """A server in memory, and the receipts it has given."""

    def __init__(self) -> None:
        network = MemoryNetwork(1)
        self.client, self.server = network.host(), network.host()
        self.engine = FaultyEngine()
        self.receipts: list[Receipt] = []

    async def start(self) -> None:
        await load_span(MANIFEST, SPAN, MemorySource(FILES), MemoryStore(), self.engine)
        self.span = span = ServedSpan(Admission(96, 4), 64, lambda error: None)
        span.resume(self.engine)
        receipts = Receipts(now, self.receipts.append)
        TransformerConnectionHandler(CONFIG, TINY, span, receipts=receipts).register(self.server)
        await self.server.listen()

    async def call(self, name: str, message: bytes) -> bytes:
        return await self.client.call(self.server.peer_id, _rpc(name), message, timeout=9.0)

    async def open(self, name: str = "inference") -> Stream:
        return await self.client.open_stream(self.server.peer_id, _rpc(name), timeout=9.0)


def _rpc(name: str) -> str:
    return f"TransformerConnectionHandler.rpc_{name}"


def serving(test: Callable[[Served], Awaitable[None]]) -> None:
    async def main() -> None:
        served = Served()
        await served.start()
        await test(served)

    run(main())


async def converse(stream: Stream, messages: list[bytes]) -> int:
    """Send each and await its answer; the bytes of the answers."""
    received = 0
    for message in messages:
        await stream.send(message)
        received += len(await stream.receive() or b"")
    return received


def test_a_session_has_one_receipt_when_it_has_ended() -> None:
    async def test(served: Served) -> None:
        stream = await served.open()
        began = now()
        messages = [request(hidden(2, 5), max_length=20), request(hidden(2, 1)), request(hidden(2, 1))]
        received = await converse(stream, messages)
        assert served.receipts == [], "it lasts"
        await asyncio.sleep(30)
        end = ExpertRequest().encode()
        await stream.send(end)
        await stream.end()
        assert await stream.receive() is None
        (receipt,) = served.receipts
        size = sum(map(len, [*messages, end]))
        assert receipt == Receipt(
            "session",
            served.client.peer_id,
            "tiny",
            ASKED,
            14,
            size,
            received,
            receipt.started,
            receipt.ended,
        )
        assert began - 1 < receipt.started <= began
        assert receipt.ended - receipt.started == pytest.approx(30, abs=1)

    serving(test)


def test_a_caller_that_vanishes_leaves_a_receipt_that_says_so() -> None:
    async def test(served: Served) -> None:
        stream = await served.open()
        await converse(stream, [request(hidden(1, 3), max_length=8)])
        await served.client.close()
        await asyncio.sleep(1)
        (receipt,) = served.receipts
        assert (receipt.tokens, receipt.error != "") == (3, True)

    serving(test)


def test_one_that_was_paused_says_so_and_what_follows_is_whole() -> None:
    async def test(served: Served) -> None:
        stream = await served.open()
        await converse(stream, [request(hidden(1, 3), max_length=8)])
        served.span.pause("its owner has paused it")
        with pytest.raises(RpcError, match="its owner has paused it"):
            await stream.receive()
        served.span.unpause()
        stream = await served.open()
        await converse(stream, [request(hidden(1, 4), max_length=8)])
        await stream.send(ExpertRequest().encode())
        await stream.end()
        assert await stream.receive() is None
        assert [(one.tokens, one.code) for one in served.receipts] == [(3, "Paused"), (4, "")]

    serving(test)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_without_a_session_has_one(stream: bool) -> None:
    async def test(served: Served) -> None:
        message = request(hidden(3, 4))
        if stream:
            sending = await served.open("forward_stream")
            await sending.send(message)
            await sending.end()
            answer = await sending.receive() or b""
            assert await sending.receive() is None
        else:
            answer = await served.call("forward", message)
        (receipt,) = served.receipts
        assert (receipt.kind, receipt.blocks, receipt.tokens) == ("forward", ASKED, 12)
        assert (receipt.bytes_in, receipt.bytes_out) == (len(message), len(answer))
        assert (receipt.peer, receipt.error) == (served.client.peer_id, "")

    serving(test)


def test_what_computed_nothing_has_none() -> None:
    async def test(served: Served) -> None:
        with pytest.raises(RpcError):
            await served.call("forward", b"\xff")
        served.engine.failures.append(EngineError("it broke"))
        with pytest.raises(RpcError, match="it broke"):
            await served.call("forward", request(hidden(1, 2)))
        stream = await served.open()
        await converse(stream, [request(hidden(1, 0), max_length=8)])
        await stream.close()
        await asyncio.sleep(1)
        assert served.receipts == []

    serving(test)


def test_counting_times_itself_and_passes_errors_on() -> None:
    told: list[Receipt] = []
    ticks = count(100.0)
    peer = MemoryNetwork(1).host().peer_id
    receipts = Receipts(lambda: next(ticks), told.append)
    with suppress(EngineError), receipts.counting("backward", peer, "tiny", SPAN) as tally:
        tally.tokens = 2
        raise EngineError("it broke")
    with Receipts().counting("forward", peer, "tiny", SPAN) as tally:
        tally.tokens = 2
    assert told == [Receipt("backward", peer, "tiny", SPAN, 2, 0, 0, 100.0, 101.0, "it broke", "EngineError")]

"""A chain of servers that push to one another, on a virtual clock: what it saves, and what it survives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from kwaainet.compression.codec import deserialize, serialize
from kwaainet.errors import RpcError
from kwaainet.node.admission import Admission
from kwaainet.node.config import NodeConfig
from kwaainet.node.model import load_span
from kwaainet.node.push import PUSH
from kwaainet.node.rpc import TransformerConnectionHandler
from kwaainet.node.span import ServedSpan
from kwaainet.ports import Stream
from kwaainet.swarm import blocks
from kwaainet.testing.clock import now, run
from kwaainet.testing.faults import FaultyEngine
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange, PeerId
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertRequest, ExpertResponse

LATENCY = 0.1  # seconds one way, always the same: hops can be counted
SPANS = [BlockRange(0, 2), BlockRange(2, 3), BlockRange(3, 5)]
MANIFEST, FILES = random_model()
NO_PROMPTS, NO_HYPO_IDS = np.zeros(0, np.float32), np.zeros(0, np.int64)


class SteadyNetwork(MemoryNetwork):
    """Every message takes ``LATENCY``."""

    def delay(self) -> float:
        return LATENCY


class Server:
    """Serves one span; ``pushes_fail`` makes it refuse what others push."""

    def __init__(self, host: MemoryHost, span: BlockRange) -> None:
        self.host, self.span, self.engine = host, span, FaultyEngine()
        config = NodeConfig("tiny", span, cache_tokens=96)
        self.served = ServedSpan(Admission(96, 8), 64, lambda error: None)
        self.handler = TransformerConnectionHandler(config, TINY, self.served)

    async def start(self) -> None:
        await load_span(MANIFEST, self.span, MemorySource(FILES), MemoryStore(), self.engine)
        self.engine.runs.clear()
        self.served.resume(self.engine)
        self.handler.register(self.host)
        await self.host.listen()


class Chain:
    """A client's session through ``servers``; ``push`` decides whether it names the next ones."""

    def __init__(self, host: MemoryHost, servers: Sequence[Server], push: bool) -> None:
        self.host, self.servers, self.push = host, servers, push
        self.streams: list[Stream] = []
        self.steps = 0

    async def open(self) -> None:
        """Every server hears of the session before its first step."""
        protocol = "TransformerConnectionHandler.rpc_inference"
        for server in self.servers:
            self.streams.append(await self.host.open_stream(server.host.peer_id, protocol, timeout=5.0))
        empty = np.zeros((1, 0, TINY.hidden_size), np.float32)
        for at, stream in enumerate(self.streams):
            await self.exchange(stream, self.message(at, empty, max_length=40, step_id="open"))

    async def step(self, hidden: np.ndarray, position: int | None = None) -> np.ndarray:
        self.steps += 1
        more = {} if position is None else {"start_from_position": position}
        for at, stream in enumerate(self.streams):
            following = [
                (str(server.host.peer_id), f"s{index}", server.span.start, server.span.end)
                for index, server in enumerate(self.servers)
                if index > at
            ]
            servers = {"next_servers": tuple(following)} if self.push else {}
            step_id = f"step {self.steps}"
            hidden = await self.exchange(stream, self.message(at, hidden, step_id=step_id, **servers, **more))
        return hidden

    def message(self, at: int, hidden: np.ndarray, **metadata: Any) -> bytes:
        metadata |= {"session_id": f"s{at}", "args_structure": ((b"__T0", b"__T1", b"__T2"), {})}
        tensors = tuple(map(serialize, (hidden, NO_PROMPTS, NO_HYPO_IDS)))
        uid = blocks.join("tiny", self.servers[at].span)
        return ExpertRequest(uid, tensors, msgpack.dumps(metadata)).encode()

    async def exchange(self, stream: Stream, message: bytes) -> np.ndarray:
        await stream.send(message)
        reply = await stream.receive()
        assert reply is not None
        return deserialize(ExpertResponse.decode(reply).tensors[0])

    async def close(self) -> None:
        for stream in self.streams:
            await stream.send(ExpertRequest().encode())
            await stream.end()
            assert await stream.receive() is None  # no answer is left over


def play(scene: Callable[[Chain], Awaitable[None]], push: bool = True) -> None:
    async def main() -> None:
        network = SteadyNetwork(1)
        servers = [Server(network.host(), span) for span in SPANS]
        for server in servers:
            await server.start()
        chain = Chain(network.host(), servers, push)
        await chain.open()
        await scene(chain)
        await chain.close()
        await asyncio.sleep(60)
        for server in servers:
            assert server.engine.open_caches == set()
            assert server.served.admission.tokens_left == 96
            assert server.handler.sessions == 0

    run(main())


def states(tokens: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, tokens, TINY.hidden_size), np.float32)


async def generate(chain: Chain, hidden: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """(the outputs of a prompt of 3 and then one token after the other, the seconds of each step)"""
    outputs, seconds = [], []
    for part in [hidden[:, :3], *(hidden[:, at : at + 1] for at in range(3, hidden.shape[1]))]:
        started = now()
        outputs.append(await chain.step(part))
        seconds.append(now() - started)
    return np.concatenate(outputs, 1), seconds


async def expected(chain: Chain, hidden: np.ndarray) -> np.ndarray:
    for server in chain.servers:
        hidden = await server.served.forward(hidden, 1.0)
    return hidden


@pytest.mark.parametrize(("push", "hops"), [(False, 2 * len(SPANS)), (True, len(SPANS) + 1)])
def test_a_step_takes_one_hop_more_than_there_are_spans(push: bool, hops: int) -> None:
    async def scene(chain: Chain) -> None:
        hidden = states(9)
        outputs, seconds = await generate(chain, hidden)
        assert seconds == pytest.approx([hops * LATENCY] * 7)
        np.testing.assert_allclose(outputs, await expected(chain, hidden), atol=1e-5)
        for server in chain.servers:
            assert server.engine.runs[:7] == [(1, 3)] + [(1, 1)] * 6  # nothing was computed twice

    play(scene, push)


def test_both_copies_of_a_step_are_counted_once() -> None:
    async def scene(chain: Chain) -> None:
        await generate(chain, states(9))
        counts = [server.handler.pushes for server in chain.servers]
        assert [(count.sent, count.taken, count.failed) for count in counts] == [
            (7, 0, 0),
            (7, 7, 0),
            (0, 7, 0),
        ]

    play(scene)


@pytest.mark.parametrize("kind", ["refuses", "is silent", "is slow"])
def test_pushes_that_fail_cost_time_and_nothing_else(kind: str) -> None:
    async def scene(chain: Chain) -> None:
        middle = chain.servers[1]

        async def rpc_push(peer: PeerId, message: bytes) -> bytes:
            if kind == "refuses":
                raise RpcError("no")
            await asyncio.sleep(0.3 if kind == "is slow" else 1e6)  # slow: after the client's own copy
            return await middle.handler.rpc_push(peer, message)

        middle.host.handle_unary(PUSH, rpc_push)
        hidden = states(9)
        outputs, seconds = await generate(chain, hidden)
        assert seconds == pytest.approx([(2 * len(SPANS) - 1) * LATENCY] * 7)  # the last hop is still saved
        np.testing.assert_allclose(outputs, await expected(chain, hidden), atol=1e-5)

    play(scene)


def test_rolling_back_goes_down_the_chain_with_the_push() -> None:
    async def scene(chain: Chain) -> None:
        hidden, other = states(9), states(2, seed=6)
        await chain.step(hidden, 0)
        started = now()
        output = await chain.step(other, 4)
        assert now() - started == pytest.approx((len(SPANS) + 1) * LATENCY)
        whole = await expected(chain, np.concatenate([hidden[:, :4], other], 1))
        np.testing.assert_allclose(output, whole[:, 4:], atol=1e-5)

    play(scene)


def test_a_stranger_cannot_end_a_session_by_what_it_pushes() -> None:
    async def scene(chain: Chain) -> None:
        hidden = states(5)
        stranger = chain.host
        first = await chain.step(hidden[:, :3], 0)
        for message in (
            chain.message(1, np.zeros((1, 1, 3), np.float32), step_id="a"),
            chain.message(1, states(2), step_id="b", start_from_position=30),
            chain.message(1, states(90), step_id="c"),
            chain.message(1, states(1)),
            chain.message(1, states(1), step_id="d", next_servers=7),
        ):
            await stranger.call(chain.servers[1].host.peer_id, PUSH, message, timeout=5.0)
        second = await chain.step(hidden[:, 3:], 3)
        outputs = np.concatenate([first, second], 1)
        np.testing.assert_allclose(outputs, await expected(chain, hidden), atol=1e-5)
        assert chain.servers[1].handler.pushes.dropped == 5

    play(scene)

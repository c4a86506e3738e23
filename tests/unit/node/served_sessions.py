"""A server of sessions in memory, and the messages of who calls it, for tests of both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from kwaainet.compression.codec import deserialize, serialize
from kwaainet.errors import DeviceLost
from kwaainet.node.admission import Admission
from kwaainet.node.config import NodeConfig
from kwaainet.node.model import load_span
from kwaainet.node.rpc import TransformerConnectionHandler
from kwaainet.node.span import ServedSpan
from kwaainet.ports import Stream
from kwaainet.swarm import blocks
from kwaainet.testing.clock import run
from kwaainet.testing.faults import FaultyEngine
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertRequest, ExpertResponse

SPAN = BlockRange(0, 2)
UID = blocks.join("tiny", SPAN)
CONFIG = NodeConfig("tiny", SPAN, cache_tokens=96, max_run_tokens=16)
MANIFEST, FILES = random_model()
NO_PROMPTS, NO_HYPO_IDS = np.zeros(0, np.float32), np.zeros(0, np.int64)


def states(batch: int = 1, tokens: int = 1, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, tokens, TINY.hidden_size), np.float32)


def message(hidden: np.ndarray, hypo_ids: np.ndarray = NO_HYPO_IDS, uid: str = UID, **metadata: Any) -> bytes:
    tensors = tuple(map(serialize, (hidden, NO_PROMPTS, hypo_ids)))
    metadata["args_structure"] = ((b"__T0", b"__T1", b"__T2"), {})
    return ExpertRequest(uid, tensors, msgpack.dumps(metadata)).encode()


class Swarm:
    """One server, one client, and streams between them."""

    def __init__(self, config: NodeConfig) -> None:
        self.network = MemoryNetwork(1)
        self.client, self.server = self.network.host(), self.network.host()
        self.engine = FaultyEngine()
        self.losses: list[DeviceLost] = []
        admission = Admission(config.total_tokens(TINY), config.max_sessions)
        self.span = ServedSpan(admission, config.max_run_tokens, self.losses.append)
        self.handler = TransformerConnectionHandler(config, TINY, self.span)

    async def start(self) -> None:
        await load_span(MANIFEST, SPAN, MemorySource(FILES), MemoryStore(), self.engine)
        self.engine.runs.clear()
        self.span.resume(self.engine)
        self.handler.register(self.server)
        await self.server.listen()

    async def open(self, host: MemoryHost | None = None) -> Stream:
        protocol = "TransformerConnectionHandler.rpc_inference"
        return await (host or self.client).open_stream(self.server.peer_id, protocol, timeout=5.0)

    async def expected(self, hidden: np.ndarray) -> np.ndarray:
        cache = await self.engine.open_cache(hidden.shape[0], hidden.shape[1])
        output = await self.engine.run(cache, hidden)
        await self.engine.close_cache(cache)
        return output

    async def settle(self) -> None:
        """Everything on the way has arrived, and nothing is held."""
        await asyncio.sleep(1)
        assert self.engine.open_caches == set()
        assert self.span.admission.tokens_left == self.span.admission.total
        assert self.handler.sessions == 0


async def step(stream: Stream, request: bytes) -> np.ndarray:
    await stream.send(request)
    reply = await stream.receive()
    assert reply is not None
    (tensor,) = ExpertResponse.decode(reply).tensors
    return deserialize(tensor)


async def finish(stream: Stream) -> None:
    await stream.send(ExpertRequest().encode())
    await stream.end()
    assert await stream.receive() is None


def served(test: Callable[[Swarm], Awaitable[None]], config: NodeConfig = CONFIG) -> None:
    async def main() -> None:
        swarm = Swarm(config)
        await swarm.start()
        await test(swarm)
        await swarm.settle()

    run(main())

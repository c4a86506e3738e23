"""Sessions with deep prompts, over the wire: the same as training's forward, whatever the steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import pytest

from kwaainet.compression.codec import deserialize, serialize
from kwaainet.errors import RpcError
from kwaainet.node.admission import Admission
from kwaainet.node.config import NodeConfig
from kwaainet.node.gradients import SpanGradients
from kwaainet.node.model import load_block, load_span
from kwaainet.node.rpc import TransformerConnectionHandler
from kwaainet.node.span import ServedSpan
from kwaainet.ports import Floats, Stream
from kwaainet.swarm import blocks
from kwaainet.testing.clock import run
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.gradients import NumpyGradients
from kwaainet.testing.gradients_compliance import states
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertRequest, ExpertResponse

SPAN, ASKED = BlockRange(1, 5), BlockRange(2, 4)
MANIFEST, FILES = random_model()
NONE = np.zeros(0, np.float32)


async def load(block: int) -> Mapping[str, Floats]:
    return await load_block(MANIFEST, block, MemorySource(FILES), MemoryStore())


class Server:
    def __init__(self, client: MemoryHost, host: MemoryHost, trains: bool) -> None:
        self.client, self.host = client, host
        self.training = SpanGradients(NumpyGradients(TINY), TINY, load, 64)
        self.span = ServedSpan(Admission(96, 8), 64, lambda error: None)
        config = NodeConfig("tiny", SPAN, cache_tokens=96)
        training = self.training if trains else None
        self.handler = TransformerConnectionHandler(config, TINY, self.span, training)

    async def open(self) -> Stream:
        protocol = "TransformerConnectionHandler.rpc_inference"
        return await self.client.open_stream(self.host.peer_id, protocol, timeout=5.0)

    async def start(self) -> None:
        engine = NumpyEngine()
        await load_span(MANIFEST, SPAN, MemorySource(FILES), MemoryStore(), engine)
        self.span.resume(engine)
        self.handler.register(self.host)
        await self.host.listen()


async def step(
    stream: Stream, hidden: Floats, prompts: Floats = NONE, rows: Any = (), **metadata: Any
) -> Floats:
    tensors = tuple(map(serialize, (hidden, prompts, np.array(rows, np.int64))))
    request = ExpertRequest(
        blocks.join("tiny", ASKED), tensors, msgpack.dumps({"max_length": 20, **metadata})
    )
    await stream.send(request.encode())
    reply = await stream.receive()
    assert reply is not None
    return np.asarray(deserialize(ExpertResponse.decode(reply).tensors[0]), np.float32)


def served(test: Callable[[Server], Awaitable[None]], trains: bool = True) -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        server = Server(network.host(), network.host(), trains)
        await server.start()
        await test(server)

    run(main())


def deep(batch: int, tokens: int) -> Floats:
    return np.stack([states(TINY, batch, tokens, 30 + block) for block in range(len(ASKED))])


def test_steps_behind_prompts_are_those_of_the_whole() -> None:
    async def test(server: Server) -> None:
        hidden, prompts = states(TINY, 2, 9), deep(2, 3)
        whole = await server.training.forward(hidden, ASKED, prompts)
        stream = await server.open()
        outputs = [await step(stream, hidden[:, :5], prompts)]
        outputs += [await step(stream, hidden[:, at : at + 1]) for at in range(5, 9)]
        np.testing.assert_allclose(np.concatenate(outputs, 1), whole, atol=1e-5)
        plain = await server.training.forward(hidden, ASKED, None)
        assert np.abs(whole - plain).max() > 0.1

    served(test)


@pytest.mark.parametrize("batch", [1, 2])
def test_rows_are_reordered_with_their_prompts(batch: int) -> None:
    async def test(server: Server) -> None:
        hidden, prompts = states(TINY, 2, 6), deep(batch, 3)
        stream = await server.open()
        await step(stream, hidden[:, :5], prompts)
        got = await step(stream, hidden[:, 5:], rows=(1, 1))
        mixed = np.concatenate([hidden[[1, 1], :5], hidden[:, 5:]], 1)
        turned = prompts[:, [1, 1]] if batch == 2 else prompts
        expected = await server.training.forward(mixed, ASKED, turned)
        np.testing.assert_allclose(got, expected[:, 5:], atol=1e-5)

    served(test)


@pytest.mark.parametrize("length", [0, 2, 4])
def test_what_is_rolled_back_comes_again_without_prompts(length: int) -> None:
    async def test(server: Server) -> None:
        hidden, other, prompts = states(TINY, 1, 6), states(TINY, 1, 4, 9), deep(1, 3)
        stream = await server.open()
        await step(stream, hidden, prompts)
        got = await step(stream, other, start_from_position=length)
        both = np.concatenate([hidden[:, :length], other], 1)
        kept = prompts[:, :, :length] if length else None
        expected = await server.training.forward(both, ASKED, kept)
        np.testing.assert_allclose(got, expected[:, length:], atol=1e-5)
        np.testing.assert_allclose(
            await step(stream, hidden, prompts, start_from_position=0),
            await server.training.forward(hidden, ASKED, prompts),
            atol=1e-5,
        )

    served(test)


def test_a_server_that_does_not_train_says_so_and_serves_the_next() -> None:
    async def test(server: Server) -> None:
        with pytest.raises(RpcError, match="computes no gradients"):
            await step(await server.open(), states(TINY, 1, 5), deep(1, 3))
        assert (await step(await server.open(), states(TINY, 1, 5))).shape == (1, 5, TINY.hidden_size)

    served(test, trains=False)

"""Training through a span: the chain over its blocks, what is held for it, and the RPCs of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import pytest

from kwaainet.compression.codec import TensorJoiner, deserialize, serialize, split_for_streaming
from kwaainet.errors import CapacityError, EngineError, RpcError
from kwaainet.node import rpc
from kwaainet.node.admission import Admission
from kwaainet.node.config import NodeConfig
from kwaainet.node.gradients import IDLE_SECONDS, MAX_WAITING, SpanGradients
from kwaainet.node.model import load_block, load_span
from kwaainet.node.rpc import TransformerConnectionHandler
from kwaainet.node.span import ServedSpan
from kwaainet.ports import Floats
from kwaainet.swarm import blocks
from kwaainet.testing.clock import run
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.gradients import NumpyGradients
from kwaainet.testing.gradients_compliance import states, weights
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertRequest, ExpertResponse, Tensor

SPAN = BlockRange(1, 4)
UID = blocks.join("tiny", SPAN)
BLOCK_BYTES = 4 * sum(int(np.prod(shape)) for shape in TINY.block_shapes().values())
MANIFEST, FILES = random_model()
NONE = np.zeros(0, np.float32)


def prompts(batch: int, tokens: int, seed: int = 7) -> Floats:
    return np.stack([states(TINY, batch, tokens, seed + block) for block in range(len(SPAN))])


class Slow(NumpyGradients):
    """Every run takes a second of the virtual clock; ``failures`` are raised by the next ones."""

    def __init__(self) -> None:
        super().__init__(TINY)
        self.failures: list[EngineError] = []

    async def forward(self, block: int, hidden: Floats, tables: Mapping[str, Floats]) -> Floats:
        await asyncio.sleep(1)
        if self.failures:
            raise self.failures.pop()
        return await super().forward(block, hidden, tables)


def span(adapter: NumpyGradients, max_run_tokens: int = 64, budget: int = 1 << 30) -> SpanGradients:
    async def load(block: int) -> Mapping[str, Floats]:
        return await load_block(MANIFEST, block, MemorySource(FILES), MemoryStore())

    return SpanGradients(adapter, TINY, load, max_run_tokens, budget)


def trained(test: Callable[[SpanGradients, Slow], Awaitable[None]], **options: int) -> None:
    async def main() -> None:
        adapter = Slow()
        await test(span(adapter, **options), adapter)

    run(main())


# --- the chain over the blocks --------------------------------------------------------------------


@pytest.mark.parametrize("with_prompts", [None, (2, 3), (1, 3)])
def test_gradients_are_what_small_steps_show(with_prompts: tuple[int, int] | None) -> None:
    async def test(ours: SpanGradients, adapter: Slow) -> None:
        x, dy = states(TINY, 2, 6), states(TINY, 2, 6, 2)
        deep = prompts(*with_prompts) if with_prompts else None
        dx, d_deep = await ours.backward(x, dy, SPAN, deep)

        async def slope(dx: Floats, d_deep: Floats | None) -> float:
            step = np.float32(2e-3)
            values = []
            for sign in (step, -step):
                moved = deep if deep is None or d_deep is None else deep + sign * d_deep
                output = await ours.forward(x + sign * dx, SPAN, moved)
                values.append(float((np.float64(output) * dy).sum()))
            return (values[0] - values[1]) / (2 * float(step))

        along = states(TINY, 2, 6, 3)
        assert await slope(along, None) == pytest.approx(float((dx * along).sum()), rel=5e-3)
        assert (d_deep is None) == (deep is None)
        if deep is not None and d_deep is not None:
            assert d_deep.shape == (3, 2, 3, TINY.hidden_size)
            along = prompts(*with_prompts, seed=20)
            summed = d_deep if deep.shape[1] == 2 else d_deep.sum(1, keepdims=True)
            got = await slope(np.zeros_like(x), along)
            assert got == pytest.approx(float((summed * along).sum()), rel=5e-3)

    trained(test)


def test_rows_are_computed_in_portions_and_together_make_the_same() -> None:
    async def test(ours: SpanGradients, adapter: Slow) -> None:
        x, dy, deep = states(TINY, 5, 6), states(TINY, 5, 6, 2), prompts(5, 2)
        together = await ours.backward(x, dy, SPAN, deep)
        forward = await ours.forward(x, SPAN, deep)
        adapter.runs.clear()
        small = span(adapter, max_run_tokens=12)
        for got, expected in zip(await small.backward(x, dy, SPAN, deep), together, strict=True):
            assert got is not None
            assert expected is not None
            np.testing.assert_allclose(got, expected, atol=1e-5)
        assert {rows for _, _, rows in adapter.runs} == {2, 1}
        np.testing.assert_allclose(await small.forward(x, SPAN, deep), forward, atol=1e-5)

    trained(test)


def test_the_last_block_is_not_run_forward_for_its_gradient() -> None:
    async def test(ours: SpanGradients, adapter: Slow) -> None:
        await ours.backward(states(TINY, 1, 3), states(TINY, 1, 3), SPAN, None)
        kinds = [(kind, block) for kind, block, _ in adapter.runs]
        assert kinds == [
            *(("forward", block) for block in (1, 2)),
            *(("backward", block) for block in (3, 2, 1)),
        ]

    trained(test)


def test_zero_tokens_cost_nothing() -> None:
    async def test(ours: SpanGradients, adapter: Slow) -> None:
        none = np.zeros((2, 0, TINY.hidden_size), np.float32)
        dx, deep = await ours.backward(none, none, SPAN, None)
        assert (dx.shape, deep, adapter.runs) == (none.shape, None, [])

    trained(test)


# --- what is held for it --------------------------------------------------------------------------


def test_weights_are_held_within_the_budget_the_least_used_going_first() -> None:
    async def test(ours: SpanGradients, adapter: Slow) -> None:
        x, dy = states(TINY, 1, 3), states(TINY, 1, 3, 2)
        expected, _ = await span(NumpyGradients(TINY)).backward(x, dy, SPAN, None)
        for _ in range(2):
            got, _ = await ours.backward(x, dy, SPAN, None)
            np.testing.assert_array_equal(got, expected)
            assert set(adapter.loaded) == {1, 2}

    trained(test, budget=2 * BLOCK_BYTES)


def test_a_block_that_fits_no_budget_is_refused() -> None:
    async def test(ours: SpanGradients, adapter: Slow) -> None:
        with pytest.raises(CapacityError, match="one block takes"):
            await ours.forward(states(TINY, 1, 3), SPAN, None)

    trained(test, budget=BLOCK_BYTES - 1)


def test_a_sequence_whose_attention_does_not_fit_is_refused() -> None:
    async def test(ours: SpanGradients, adapter: Slow) -> None:
        with pytest.raises(CapacityError, match="send shorter sequences"):
            await ours.forward(np.zeros((1, 4000, TINY.hidden_size), np.float32), SPAN, None)
        assert adapter.builds == 0

    trained(test)


def test_nothing_is_held_before_the_first_request_and_after_the_last() -> None:
    async def test(ours: SpanGradients, adapter: Slow) -> None:
        assert adapter.builds == 0
        x = states(TINY, 1, 3)
        await ours.forward(x, SPAN, None)
        await asyncio.sleep(IDLE_SECONDS - 1)
        await ours.forward(x, SPAN, None)
        await asyncio.sleep(IDLE_SECONDS - 1)
        assert (adapter.builds, set(adapter.loaded)) == (1, {1, 2, 3})
        await asyncio.sleep(2)
        assert adapter.loaded == {}
        await ours.forward(x, SPAN, None)
        assert adapter.builds == 2

    trained(test)


def test_requests_wait_for_each_other_and_too_many_are_refused() -> None:
    async def test(ours: SpanGradients, adapter: Slow) -> None:
        async def ask() -> Floats | CapacityError:
            try:
                return await ours.forward(states(TINY, 1, 3), SPAN, None)
            except CapacityError as error:
                return error

        answers = await asyncio.gather(*(ask() for _ in range(MAX_WAITING + 2)))
        refused = [answer for answer in answers if isinstance(answer, CapacityError)]
        assert len(refused) == 2
        assert "wait already" in str(refused[0])
        assert not isinstance(await ask(), CapacityError)

    trained(test)


def test_one_who_leaves_gives_up_the_turn() -> None:
    async def test(ours: SpanGradients, adapter: Slow) -> None:
        x = states(TINY, 1, 3)
        leaver = asyncio.ensure_future(ours.forward(x, SPAN, None))
        other = asyncio.ensure_future(ours.forward(x, SPAN, None))
        await asyncio.sleep(0.5)
        leaver.cancel()
        assert (await other).shape == x.shape
        assert len(adapter.runs) == 3

    trained(test)


def test_after_an_engine_error_the_next_request_starts_afresh() -> None:
    async def test(ours: SpanGradients, adapter: Slow) -> None:
        x = states(TINY, 1, 3)
        adapter.failures.append(EngineError("broken"))
        with pytest.raises(EngineError, match="broken"):
            await ours.forward(x, SPAN, None)
        assert adapter.loaded == {}
        assert (await ours.forward(x, SPAN, None)).shape == x.shape
        assert adapter.builds == 2

    trained(test)


# --- the RPCs -------------------------------------------------------------------------------------


class Server:
    """A client and a server that trains."""

    def __init__(self, client: MemoryHost, host: MemoryHost) -> None:
        self.client, self.host = client, host
        self.training = span(NumpyGradients(TINY))

    async def start(self) -> None:
        engine = NumpyEngine()
        await load_span(MANIFEST, SPAN, MemorySource(FILES), MemoryStore(), engine)
        served = ServedSpan(Admission(400, 8), 64, lambda error: None)
        served.resume(engine)
        config = NodeConfig("tiny", SPAN, cache_tokens=400)
        TransformerConnectionHandler(config, TINY, served, self.training).register(self.host)
        await self.host.listen()

    async def call(
        self, name: str, *arrays: np.ndarray | Tensor, uid: str = UID, **metadata: Any
    ) -> list[Tensor]:
        tensors = tuple(array if isinstance(array, Tensor) else serialize(array) for array in arrays)
        request = ExpertRequest(uid, tensors, msgpack.dumps(metadata)).encode()
        protocol = f"TransformerConnectionHandler.{name}"
        reply = await self.client.call(self.host.peer_id, protocol, request, timeout=100.0)
        return list(ExpertResponse.decode(reply).tensors)

    async def stream(self, name: str, *arrays: np.ndarray, size: int = 4 << 20) -> list[np.ndarray]:
        protocol = f"TransformerConnectionHandler.{name}"
        stream = await self.client.open_stream(self.host.peer_id, protocol, timeout=5.0)
        for array in arrays:
            for part in split_for_streaming(serialize(array), size):
                await stream.send(ExpertRequest(UID, (part,), msgpack.dumps({})).encode())
        await stream.end()
        joiner, found = TensorJoiner(), []
        while (message := await stream.receive()) is not None:
            whole = joiner.add(ExpertResponse.decode(message).tensors[0])
            found += [deserialize(whole)] if whole is not None else []
        joiner.finish()
        return found


def asked(test: Callable[[Server], Awaitable[None]]) -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        server = Server(network.host(), network.host())
        await server.start()
        await test(server)

    run(main())


def test_without_prompts_one_gradient_comes_back() -> None:
    async def test(server: Server) -> None:
        x, dy = states(TINY, 2, 6), states(TINY, 2, 6, 2)
        expected, _ = await server.training.backward(x, dy, SPAN, None)
        (unary,) = await server.call("rpc_backward", x, dy, NONE)
        (streamed,) = await server.stream("rpc_backward_stream", x, dy, NONE, size=1000)
        for got in (deserialize(unary), streamed):
            np.testing.assert_array_equal(got, expected)

    asked(test)


def test_with_prompts_theirs_comes_back_too_and_forward_adds_them() -> None:
    async def test(server: Server) -> None:
        x, dy, deep = states(TINY, 2, 6), states(TINY, 2, 6, 2), prompts(2, 3)
        expected = await server.training.backward(x, dy, SPAN, deep)
        unary = [deserialize(tensor) for tensor in await server.call("rpc_backward", x, dy, deep)]
        for got in (unary, await server.stream("rpc_backward_stream", x, dy, deep, size=1000)):
            assert len(got) == 2
            for one, other in zip(got, expected, strict=True):
                np.testing.assert_array_equal(one, other)
        forward = await server.training.forward(x, SPAN, deep)
        np.testing.assert_array_equal(deserialize((await server.call("rpc_forward", x, deep))[0]), forward)
        (streamed,) = await server.stream("rpc_forward_stream", x, deep)
        np.testing.assert_array_equal(streamed, forward)

    asked(test)


def test_parts_of_the_span_are_trained_through() -> None:
    async def test(server: Server) -> None:
        x, dy = states(TINY, 1, 4), states(TINY, 1, 4, 2)
        (whole,) = await server.call("rpc_backward", x, dy, NONE)
        middle = deserialize((await server.call("rpc_forward", x, NONE, uid="tiny.1"))[0])
        (half,) = await server.call("rpc_backward", middle, dy, NONE, uid="tiny.2 tiny.3")
        (back,) = await server.call("rpc_backward", x, deserialize(half), NONE, uid="tiny.1")
        np.testing.assert_allclose(deserialize(back), deserialize(whole), atol=1e-5)

    asked(test)


def test_each_gradient_comes_in_the_dtype_and_compression_asked_for() -> None:
    async def test(server: Server) -> None:
        x, dy, deep = (
            serialize(array, 0, "bfloat16") for array in (states(TINY, 1, 4),) * 2 + (prompts(1, 2),)
        )
        replies = await server.call("rpc_backward", x, dy, deep, output_compression=(4, 5))
        assert [(reply.dtype, reply.compression) for reply in replies] == [("bfloat16", 4), ("bfloat16", 5)]

    asked(test)


X, DY = states(TINY, 2, 6), states(TINY, 2, 6, 2)


@pytest.mark.parametrize(
    ("arrays", "metadata", "reason"),
    [
        ((X,), {}, "gradient is missing"),
        ((X, DY[:1]), {}, r"gradient is float32 \[1, 6, 24\]; floats \[2, 6, 24\]"),
        ((X, np.zeros(X.shape, np.int64)), {}, "gradient is int64"),
        ((X, DY, prompts(2, 7)), {}, r"deep prompts are 'float32' \[3, 2, 7, 24\]"),
        ((X, DY, prompts(3, 2)), {}, "deep prompts"),
        ((X, DY, prompts(2, 2)[:2]), {}, "deep prompts"),
        ((X, DY, prompts(2, 2)[..., :5]), {}, "deep prompts"),
        ((X, DY, prompts(2, 2)[0]), {}, "deep prompts"),
        ((X, DY, NONE), {"output_compression": (0, 0)}, "tuple of 1"),
        ((X, DY, prompts(2, 2)), {"output_compression": (0,)}, "tuple of 2"),
        ((X[..., :3], DY[..., :3]), {}, "hidden states have the shape"),
        ((X, DY), {"active_adapter": "x"}, "'x' is not served"),
        ((), {}, "no hidden states"),
    ],
)
def test_a_bad_request_is_told_why(arrays: tuple[np.ndarray, ...], metadata: Any, reason: str) -> None:
    async def test(server: Server) -> None:
        with pytest.raises(RpcError, match=reason):
            await server.call("rpc_backward", *arrays, **metadata)
        assert await server.call("rpc_backward", X, DY)

    asked(test)


def test_a_reply_that_unary_cannot_carry_points_at_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "MAX_REPLY_SIZE", X.nbytes)

    async def test(server: Server) -> None:
        with pytest.raises(RpcError, match="use rpc_backward_stream"):
            await server.call("rpc_backward", X, DY)

    asked(test)


def test_weights_are_those_of_the_block() -> None:
    assert set(weights(TINY, 0)) == set(run(load_block(MANIFEST, 2, MemorySource(FILES), MemoryStore())))

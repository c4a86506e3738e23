from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kwaainet.compression.codec import (
    CompressionType,
    TensorJoiner,
    deserialize,
    serialize,
    split_for_streaming,
)
from kwaainet.errors import DeviceLost, RpcError
from kwaainet.node.admission import Admission
from kwaainet.node.config import NodeConfig
from kwaainet.node.model import load_span
from kwaainet.node.rpc import TransformerConnectionHandler, answer_pings
from kwaainet.node.span import ServedSpan
from kwaainet.swarm import blocks
from kwaainet.testing.clock import now, run
from kwaainet.testing.faults import FaultyEngine
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange
from kwaainet.wire import msgpack
from kwaainet.wire.messages import (
    ExpertInfo,
    ExpertRequest,
    ExpertResponse,
    ExpertUID,
    PingRequest,
    PingResponse,
    Tensor,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/hivemind.json").read_text())
SPAN = BlockRange(1, 4)
UID = blocks.join("tiny", SPAN)
CONFIG = NodeConfig("tiny", SPAN, cache_tokens=400, max_run_tokens=64)
MANIFEST, FILES = random_model()
NO_PROMPTS = serialize(np.zeros(0, np.float32))
INFO, FORWARD, PUSH, BACKWARD = (
    f"TransformerConnectionHandler.rpc_{name}" for name in ("info", "forward", "push", "backward")
)


def states(batch: int = 1, tokens: int = 3) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((batch, tokens, TINY.hidden_size), np.float32)


def forward_request(hidden: np.ndarray | Tensor, uid: str = UID, **metadata: Any) -> bytes:
    tensor = hidden if isinstance(hidden, Tensor) else serialize(hidden)
    metadata.setdefault("args_structure", ((b"__T0", b"__T1"), {}))
    return ExpertRequest(uid, (tensor, NO_PROMPTS), msgpack.dumps(metadata)).encode()


@dataclass
class Swarm:
    network: MemoryNetwork
    client: MemoryHost
    server: MemoryHost
    engine: FaultyEngine
    span: ServedSpan
    handler: TransformerConnectionHandler

    async def call(self, protocol: str, request: bytes) -> bytes:
        return await self.client.call(self.server.peer_id, protocol, request, timeout=1000.0)

    async def forward(self, hidden: np.ndarray | Tensor, uid: str = UID, **metadata: Any) -> Tensor:
        reply = await self.call(FORWARD, forward_request(hidden, uid, **metadata))
        (tensor,) = ExpertResponse.decode(reply).tensors
        return tensor

    async def expected(self, hidden: np.ndarray) -> np.ndarray:
        cache = await self.engine.open_cache(hidden.shape[0], hidden.shape[1])
        try:
            return await self.engine.run(cache, hidden)
        finally:
            await self.engine.close_cache(cache)

    async def stream(self, name: str) -> Any:
        protocol = f"TransformerConnectionHandler.{name}"
        return await self.client.open_stream(self.server.peer_id, protocol, timeout=5.0)


def served(test: Callable[[Swarm], Awaitable[None]], config: NodeConfig = CONFIG) -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        client, server = network.host(), network.host()
        engine = FaultyEngine()
        await load_span(MANIFEST, SPAN, MemorySource(FILES), MemoryStore(), engine)
        engine.runs.clear()
        admission = Admission(config.total_tokens(TINY), config.max_sessions)
        span = ServedSpan(admission, config.max_run_tokens, lambda error: None)
        span.resume(engine)
        handler = TransformerConnectionHandler(config, TINY, span)
        handler.register(server)
        answer_pings(server, now)
        await server.listen()
        await test(Swarm(network, client, server, engine, span, handler))

    run(main())


def refused(request: bytes, reason: str, protocol: str = FORWARD, config: NodeConfig = CONFIG) -> None:
    """The caller is told the reason, and the next caller is served."""

    async def test(swarm: Swarm) -> None:
        with pytest.raises(RpcError, match=reason):
            await swarm.call(protocol, request)
        hidden = states()
        np.testing.assert_array_equal(deserialize(await swarm.forward(hidden)), await swarm.expected(hidden))
        assert swarm.span.admission.tokens_left == 400

    served(test, config)


# --- rpc_info -------------------------------------------------------------------------------------


def test_info_of_a_block_has_the_schemas_of_petals() -> None:
    async def test(swarm: Swarm) -> None:
        reply = await swarm.call(INFO, ExpertUID("tiny.2").encode())
        ours = msgpack.loads(ExpertInfo.decode(reply).serialized_info)
        theirs = msgpack.loads(bytes.fromhex(VECTORS["rpc_info"]))
        assert list(ours) == list(theirs)
        for name in ("forward_schema", "outputs_schema", "keyword_names", "inference_schema"):
            assert repr(ours[name]) == repr(theirs[name]).replace("128", "24")  # the hidden size
        assert ours["cache_tokens_available"] == 400 * len(SPAN)

    served(test)


def test_info_without_a_block_is_short() -> None:
    async def test(swarm: Swarm) -> None:
        info = msgpack.loads(ExpertInfo.decode(await swarm.call(INFO, b"")).serialized_info)
        assert info.keys() == {"version", "dht_client_mode", "cache_tokens_available"}

    served(test)


def test_info_is_given_while_the_blocks_are_loading() -> None:
    async def test(swarm: Swarm) -> None:
        swarm.span.suspend("still loading")
        assert ExpertInfo.decode(await swarm.call(INFO, b"")).serialized_info

    served(test)


def test_info_of_a_block_not_served_names_it() -> None:
    refused(
        ExpertUID("tiny.4").encode(), "'tiny.4' is not served here; this server has tiny.1 to tiny.3", INFO
    )


# --- rpc_forward ----------------------------------------------------------------------------------


def test_forward_computes_the_span() -> None:
    async def test(swarm: Swarm) -> None:
        hidden = states(3, 8)
        reply = await swarm.forward(hidden)
        assert (reply.dtype, reply.compression) == ("float32", CompressionType.NONE)
        np.testing.assert_allclose(deserialize(reply), await swarm.expected(hidden), atol=1e-6)
        assert swarm.engine.open_caches == set()

    served(test)


def test_forwards_through_parts_of_the_span_join() -> None:
    async def test(swarm: Swarm) -> None:
        hidden = states(3, 8)
        half = deserialize(await swarm.forward(hidden, "tiny.1"))
        stream = await swarm.stream("rpc_forward_stream")
        await send_parts(stream, half, 1000, "tiny.2 tiny.3")
        output, _ = await receive_tensor(stream)
        np.testing.assert_allclose(output, await swarm.expected(hidden), atol=1e-6)

    served(test)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_forward_answers_in_the_dtype_it_was_asked_in(dtype: str) -> None:
    async def test(swarm: Swarm) -> None:
        hidden = states()
        reply = await swarm.forward(serialize(hidden, CompressionType.NONE, dtype))
        assert reply.dtype == dtype
        np.testing.assert_allclose(deserialize(reply), await swarm.expected(hidden), atol=0.05)

    served(test)


@pytest.mark.parametrize("compression", list(CompressionType))
def test_forward_takes_and_gives_every_compression(compression: CompressionType) -> None:
    async def test(swarm: Swarm) -> None:
        hidden = states()
        tensor = serialize(hidden, compression)
        reply = await swarm.forward(tensor, output_compression=(int(compression),))
        assert reply.compression == compression
        error = np.abs(deserialize(reply) - await swarm.expected(deserialize(tensor))).max()
        assert error < 0.3

    served(test)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (forward_request(states(), "tiny.0 tiny.1"), "'tiny.0' is not served"),
        (forward_request(states(), "tiny.3 tiny.2"), "does not follow"),
        (forward_request(states(), "other.1 other.2 other.3"), "'other.1' is not served"),
        (forward_request(states(), "tiny.1 tiny.2 tiny.7"), "'tiny.7' is not served"),
        (forward_request(states()[..., :5]), r"shape \[1, 3, 5\]"),
        (forward_request(states()[0]), r"shape \[3, 24\]"),
        (forward_request(states().astype(np.float64)), "'float64'"),
        (forward_request(states(1, 97)), "97 tokens at once; at most 96"),
        (forward_request(replace(serialize(states()), size=(1, 4, 24))), "ProtocolError"),
        (forward_request(replace(serialize(states()), compression=9)), "compression 9 is unknown"),
        (forward_request(states(), active_adapter="x"), "'x' is not served"),
        (forward_request(states(), output_compression=(8,)), "output_compression"),
        (ExpertRequest(UID).encode(), "no hidden states"),
        (b"\xff" * 40, "ProtocolError"),
        (b"\x12\xff\xff\xff\xff\x7f", "ProtocolError"),
        (ExpertRequest(UID, (serialize(states()),), b"\xc1").encode(), "ProtocolError"),
    ],
)
def test_a_bad_forward_is_told_why(request_: bytes, reason: str) -> None:
    refused(request_, reason)


def test_deep_prompts_are_refused() -> None:
    prompts = serialize(np.zeros((3, 1, 2, 24), np.float32))
    refused(ExpertRequest(UID, (serialize(states()), prompts)).encode(), "deep prompts")


def test_a_reply_that_unary_cannot_carry_points_at_the_stream() -> None:
    hidden = serialize(np.zeros((600, 96, 24), np.float32), CompressionType.UNIFORM_8BIT)
    refused(forward_request(hidden), "use rpc_forward_stream")


def test_a_forward_that_takes_too_long_is_given_up() -> None:
    async def test(swarm: Swarm) -> None:
        swarm.engine.seconds_per_run = 30.0
        with pytest.raises(RpcError, match="longer than 50 s"):
            await swarm.forward(states(2, 60))
        swarm.engine.seconds_per_run = 0.0
        await swarm.forward(states())
        assert swarm.span.admission.tokens_left == 400

    served(test, replace(CONFIG, request_timeout=50.0))


def test_forward_is_refused_while_the_blocks_are_loading() -> None:
    async def test(swarm: Swarm) -> None:
        swarm.span.suspend("the server is still loading")
        with pytest.raises(RpcError, match="still loading"):
            await swarm.forward(states())

    served(test)


def test_a_lost_device_is_said_so() -> None:
    async def test(swarm: Swarm) -> None:
        swarm.engine.failures.append(DeviceLost("gone"))
        with pytest.raises(RpcError, match="DeviceLost"):
            await swarm.forward(states())

    served(test)


# --- rpc_forward_stream ---------------------------------------------------------------------------


async def send_parts(stream: Any, hidden: np.ndarray, size: int, uid: str = UID, **metadata: Any) -> None:
    packed = msgpack.dumps(metadata)
    for tensor in (serialize(hidden), NO_PROMPTS):
        for part in split_for_streaming(tensor, size):
            await stream.send(ExpertRequest(uid, (part,), packed).encode())
    await stream.end()


async def send_all(stream: Any, messages: list[bytes]) -> bytes | None:
    for message in messages:
        await stream.send(message)
    await stream.end()
    reply: bytes | None = await stream.receive()
    return reply


async def receive_tensor(stream: Any) -> tuple[np.ndarray, int]:
    joiner, messages, whole = TensorJoiner(), 0, None
    while (message := await stream.receive()) is not None:
        (part,) = ExpertResponse.decode(message).tensors
        whole = joiner.add(part)
        messages += 1
    joiner.finish()
    assert whole is not None
    return deserialize(whole), messages


def test_a_streamed_forward_computes_what_a_unary_one_does() -> None:
    async def test(swarm: Swarm) -> None:
        hidden = states(4, 20)
        stream = await swarm.stream("rpc_forward_stream")
        await send_parts(stream, hidden, 1000, points=0, active_adapter=None)
        output, messages = await receive_tensor(stream)
        assert messages == 1
        np.testing.assert_allclose(output, await swarm.expected(hidden), atol=1e-6)

    served(test)


def test_a_large_reply_is_streamed_in_parts_of_4_mib() -> None:
    async def test(swarm: Swarm) -> None:
        hidden = states(500, 96)
        stream = await swarm.stream("rpc_forward_stream")
        await send_parts(stream, hidden, 4 << 20)
        output, messages = await receive_tensor(stream)
        assert (output.shape, messages) == (hidden.shape, -(-hidden.nbytes // (4 << 20)))

    served(test, replace(CONFIG, max_run_tokens=4096, cache_tokens=4096))


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "ended before its first message"),
        ([b"\xff\xff"], "varint"),
        ([ExpertRequest(UID, (Tensor(b"x" * 8),)).encode()], "part"),
        (
            [ExpertRequest(UID, (Tensor(b"x" * 8, (1, 1, 24), False, "float32", 0, 2),)).encode()],
            "parts",
        ),
        ([forward_request(states()), forward_request(states(), "tiny.1")], "uids differ"),
        ([forward_request(np.zeros((4, 96, 24), np.float32))] * 3, "send a smaller batch"),
        ([forward_request(states(), "tiny.9")], "'tiny.9' is not served"),
    ],
)
def test_a_bad_streamed_forward_is_told_why(messages: list[bytes], reason: str) -> None:
    async def test(swarm: Swarm) -> None:
        stream = await swarm.stream("rpc_forward_stream")
        with pytest.raises(RpcError, match=reason):
            await send_all(stream, messages)
        await swarm.forward(states())

    served(test, replace(CONFIG, max_request_bytes=100_000))


# --- the others -----------------------------------------------------------------------------------


def test_gradients_are_refused_clearly() -> None:
    refused(forward_request(states()), "computes no gradients", BACKWARD)


def test_streamed_gradients_are_refused_clearly() -> None:
    async def test(swarm: Swarm) -> None:
        stream = await swarm.stream("rpc_backward_stream")
        await stream.send(forward_request(states()))
        with pytest.raises(RpcError, match="computes no gradients"):
            await stream.receive()

    served(test)


def test_a_push_for_no_session_is_accepted_and_changes_nothing() -> None:
    async def test(swarm: Swarm) -> None:
        reply = await swarm.call(PUSH, forward_request(states(), session_id="s", pushed=True))
        assert (reply, swarm.engine.runs) == (b"", [])

    served(test)
    refused(forward_request(states(), "other.1"), "'other.1' is not served", PUSH)
    refused(forward_request(states()), "no session_id", PUSH)
    refused(forward_request(states(), session_id=7), "session_id is '7'", PUSH)


def test_a_ping_is_answered_with_the_time() -> None:
    async def test(swarm: Swarm) -> None:
        before = now()
        pong = PingResponse.decode(await swarm.call("DHTProtocol.rpc_ping", PingRequest().encode()))
        assert before <= pong.dht_time <= now()
        assert pong.available
        assert pong.peer is not None
        assert pong.peer.node_id == b""
        with pytest.raises(RpcError, match="ProtocolError"):
            await swarm.call("DHTProtocol.rpc_ping", b"\xff\xff")

    served(test)

"""The RPCs of a served span: ``TransformerConnectionHandler`` over the Host and Engine ports.

Follows Petals' ``server/handler.py``; bytes as in hivemind's ``runtime.proto``. Rule of the file: a
request that cannot be served raises an error that tells its caller why; it touches nobody else's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any

from .. import __version__
from ..compression.codec import TensorJoiner, split_for_streaming
from ..errors import LimitExceeded, RequestError
from ..formats.config import ModelConfig
from ..inference import tensors
from ..inference.push import check_id
from ..inference.session import InferenceSession
from ..inference.tensors import Limits
from ..ports import Clock, Host, Stream
from ..swarm import blocks
from ..types import BlockRange, PeerId
from ..wire import msgpack
from ..wire.messages import (
    ExpertInfo,
    ExpertRequest,
    ExpertResponse,
    ExpertUID,
    NodeInfo,
    PingRequest,
    PingResponse,
    Tensor,
)
from ..wire.msgpack import BatchTensorDescriptor
from ..wire.rpc import MAX_UNARY_SIZE
from .config import NodeConfig
from .gradients import no_gradients
from .inference import SessionServer
from .push import PushCounts, PushedSteps, Pusher
from .receipts import Kind, Receipts, Tally
from .runner import Runner, Training

SERVICE = "TransformerConnectionHandler"
PING = "DHTProtocol.rpc_ping"
MAX_PART_SIZE = 4 << 20  # bytes of one part of a streamed tensor, as Hivemind splits them
MAX_PARTS = 4096  # messages of one streamed request
MAX_REPLY_SIZE = MAX_UNARY_SIZE - 1024  # the envelope takes the rest


class TransformerConnectionHandler:
    """Answers for the blocks of ``config`` of a model; ``span`` may have no engine yet.

    Without ``gradients`` it refuses to train: rpc_backward, and deep prompts wherever they come.
    ``sessions`` counts the inference sessions being served; ``receipts`` hear of all that was computed.
    """

    def __init__(
        self,
        config: NodeConfig,
        model: ModelConfig,
        span: Runner,
        gradients: Training | None = None,
        receipts: Receipts | None = None,
    ) -> None:
        config.check_model(model)
        self._config, self._span, self._gradients = config, span, gradients
        self._receipts = receipts or Receipts()
        self._limits = Limits(model.hidden_size, config.max_length(model))
        self._pushed = PushedSteps()
        self._host: Host | None = None
        self.sessions = 0

    def register(self, host: Host) -> None:
        """Serve every RPC of the service on this host, and push steps to other servers through it."""
        self._host = host
        for name in ("info", "forward", "backward", "push"):
            host.handle_unary(f"{SERVICE}.rpc_{name}", getattr(self, f"rpc_{name}"))
        for name in ("inference", "forward_stream", "backward_stream"):
            host.handle_stream(f"{SERVICE}.rpc_{name}", getattr(self, f"rpc_{name}"))

    @property
    def cache_tokens_left(self) -> int:
        """As ``ServerInfo`` counts: a token takes a key and a value in each block."""
        return 2 * len(self._config.blocks) * self._span.admission.tokens_left

    @property
    def pushes(self) -> PushCounts:
        """What became of the steps that servers pushed to us, and we to them."""
        return self._pushed.counts

    # --- unary ------------------------------------------------------------------------------------

    async def rpc_info(self, peer: PeerId, request: bytes) -> bytes:
        """About the server; with the uid of a block also the schemas that clients encode by."""
        uid = ExpertUID.decode(request).uid
        info: dict[str, Any] = {
            "version": __version__,
            "dht_client_mode": self._config.answer_ping,  # no DHT node of our own
            "cache_tokens_available": len(self._config.blocks) * self._span.admission.tokens_left,
        }
        if uid:
            blocks.parse_chain(uid, self._config.prefix, self._config.blocks)
            info |= _schemas(self._limits.hidden_size)
        return ExpertInfo(msgpack.dumps(info)).encode()

    async def rpc_forward(self, peer: PeerId, request: bytes) -> bytes:
        """Hidden states [batch, n, hidden] through the blocks asked for, without a session."""
        message = ExpertRequest.decode(request)
        with self._counting("forward", peer) as tally:
            async with self._time_limit():
                output = await self._forward(message, list(message.tensors), peer, tally)
            reply = _unary([output], "rpc_forward_stream")
            tally.bytes_in, tally.bytes_out = len(request), len(reply)
        return reply

    async def rpc_backward(self, peer: PeerId, request: bytes) -> bytes:
        """The gradient of hidden states, given that of the output; then that of deep prompts, if any."""
        message = ExpertRequest.decode(request)
        with self._counting("backward", peer) as tally:
            async with self._time_limit():
                outputs = await self._backward(message, list(message.tensors), tally)
            reply = _unary(outputs, "rpc_backward_stream")
            tally.bytes_in, tally.bytes_out = len(request), len(reply)
        return reply

    async def rpc_push(self, peer: PeerId, request: bytes) -> bytes:
        """A step's input, straight from the server before us; the session takes what comes first.

        As in Petals, one for a session that is not here is no error: it may not have begun yet.
        """
        message = ExpertRequest.decode(request)
        asked = blocks.parse_chain(message.uid, self._config.prefix, self._config.blocks)
        session_id = tensors.metadata(message).get("session_id")
        check_id("session_id", session_id)
        if not session_id:
            raise RequestError("a pushed step has no session_id; nobody could tell which session it is for")
        self._pushed.deliver((session_id, asked), message, len(request))
        return ExpertResponse().encode()

    # --- streams ----------------------------------------------------------------------------------

    async def rpc_inference(self, stream: Stream) -> None:
        """One session: each request's positions are appended to the session's own cache."""
        assert self._host is not None, "streams come through a host we are registered with"
        session = InferenceSession(self._config.prefix, self._config.blocks, self._limits)
        pusher = Pusher(self._host, self.rpc_push, self._pushed.counts)
        self.sessions += 1
        try:
            with self._counting("session", stream.remote_peer) as tally:
                server = SessionServer(
                    stream, session, self._span, self._config, self._pushed, pusher, tally, self._gradients
                )
                await server.serve()
        finally:
            self.sessions -= 1

    async def rpc_forward_stream(self, stream: Stream) -> None:
        """``rpc_forward`` for what does not fit one message: tensors come and go in parts."""
        with self._counting("forward", stream.remote_peer) as tally:
            async with self._time_limit():
                request, inputs = await self._gather(stream, tally)
                output = await self._forward(request, inputs, stream.remote_peer, tally)
                await _send_parts(stream, [output], tally)

    async def rpc_backward_stream(self, stream: Stream) -> None:
        """``rpc_backward`` for what does not fit one message."""
        with self._counting("backward", stream.remote_peer) as tally:
            async with self._time_limit():
                if self._gradients is None:
                    await stream.receive()  # the caller hears of it while it still sends
                    raise no_gradients()
                request, inputs = await self._gather(stream, tally)
                await _send_parts(stream, await self._backward(request, inputs, tally), tally)

    # --- shared -----------------------------------------------------------------------------------

    def _counting(self, kind: Kind, peer: PeerId) -> AbstractContextManager[Tally]:
        return self._receipts.counting(kind, peer, self._config.prefix, self._config.blocks)

    async def _forward(
        self, request: ExpertRequest, inputs: list[Tensor], peer: PeerId, tally: Tally
    ) -> Tensor:
        asked, options = self._asked(request), tensors.metadata(request)
        given = tensors.arguments(inputs, options.get("args_structure"))
        hidden, prompts = (*given, None, None)[:2]
        tensors.check_common(options)
        tensors.check_hidden(hidden, self._limits)
        assert hidden is not None  # check_hidden raises otherwise
        prompted = tensors.check_prompts(prompts, len(asked), hidden)
        reply = tensors.reply_format(hidden, options)
        states = tensors.unpack_hidden(hidden)
        if prompted and prompts is not None:
            output = await self._training().forward(states, asked, tensors.unpack_hidden(prompts))
        else:
            within = blocks.within(asked, self._config.blocks)
            output = await self._span.forward(states, self._config.request_timeout, within, peer)
        tally.blocks, tally.tokens = asked, states.shape[0] * states.shape[1]
        return reply.pack(output)

    async def _backward(self, request: ExpertRequest, inputs: list[Tensor], tally: Tally) -> list[Tensor]:
        asked, options = self._asked(request), tensors.metadata(request)
        given = tensors.arguments(inputs, options.get("args_structure"))
        hidden, grad, prompts = (*given, None, None, None)[:3]
        training = self._training()
        tensors.check_common(options)
        tensors.check_hidden(hidden, self._limits)
        assert hidden is not None  # check_hidden raises otherwise
        tensors.check_gradient(grad, hidden)
        assert grad is not None  # check_gradient raises otherwise
        prompted = tensors.check_prompts(prompts, len(asked), hidden)
        replies = tensors.reply_formats(hidden, options, 1 + prompted)
        deep = tensors.unpack_hidden(prompts) if prompted and prompts is not None else None
        states, gradient = tensors.unpack_hidden(hidden), tensors.unpack_hidden(grad)
        found = await training.backward(states, gradient, asked, deep)
        tally.blocks, tally.tokens = asked, states.shape[0] * states.shape[1]
        return [reply.pack(one) for reply, one in zip(replies, found, strict=False) if one is not None]

    def _asked(self, request: ExpertRequest) -> BlockRange:
        return blocks.parse_chain(request.uid, self._config.prefix, self._config.blocks)

    def _training(self) -> Training:
        if self._gradients is None:
            raise no_gradients()
        return self._gradients

    async def _gather(self, stream: Stream, tally: Tally) -> tuple[ExpertRequest, list[Tensor]]:
        """(the first message, the whole tensors of all messages)."""
        first: ExpertRequest | None = None
        joiner = TensorJoiner()
        inputs: list[Tensor] = []
        size = messages = 0
        while (message := await stream.receive()) is not None:
            size, messages = size + len(message), messages + 1
            if size > self._config.max_request_bytes or messages > MAX_PARTS:
                raise LimitExceeded(
                    f"a streamed request of more than {self._config.max_request_bytes} bytes or {MAX_PARTS} "
                    "parts; send a smaller batch"
                )
            request = ExpertRequest.decode(message)
            first = first or request
            if request.uid != first.uid:
                raise RequestError(f"block uids differ within one request: {request.uid[:200]!r}")
            inputs += [whole for part in request.tensors if (whole := joiner.add(part)) is not None]
        joiner.finish()
        tally.bytes_in = size
        if first is None:
            raise RequestError("the request ended before its first message")
        return first, inputs

    @asynccontextmanager
    async def _time_limit(self) -> AsyncIterator[None]:
        limit = self._config.request_timeout
        try:
            async with asyncio.timeout(limit):
                yield
        except TimeoutError:
            raise RequestError(f"the request took longer than {limit:g} s; send a smaller batch") from None


def answer_pings(host: Host, now: Clock) -> None:
    """Answer ``DHTProtocol.rpc_ping`` where no DHT node of our own does.

    Clients measure a server's round trip with it, and take one that does not answer for very far.
    The empty node id says that nobody may take us for a DHT node.
    """

    async def rpc_ping(peer: PeerId, request: bytes) -> bytes:
        PingRequest.decode(request)
        return PingResponse(peer=NodeInfo(), dht_time=now(), available=True).encode()

    host.handle_unary(PING, rpc_ping)


def _unary(outputs: list[Tensor], stream: str) -> bytes:
    reply = ExpertResponse(tensors=tuple(outputs)).encode()
    if len(reply) > MAX_REPLY_SIZE:
        raise RequestError(
            f"the reply takes {len(reply)} bytes, more than the {MAX_REPLY_SIZE} of a unary call; "
            f"use {stream}"
        )
    return reply


async def _send_parts(stream: Stream, outputs: list[Tensor], tally: Tally) -> None:
    for output in outputs:
        for part in split_for_streaming(output, MAX_PART_SIZE):
            message = ExpertResponse(tensors=(part,)).encode()
            await stream.send(message)
            tally.bytes_out += len(message)


def _schemas(hidden_size: int) -> dict[str, Any]:
    """What a client learns about the tensors to send; compression 0 (NONE) throughout."""
    hidden = BatchTensorDescriptor((None, 1, 2048, hidden_size))
    prompts = BatchTensorDescriptor((None,))
    hypo_ids = BatchTensorDescriptor((None,), "torch.int64")
    return {
        "forward_schema": ((hidden,), {}),
        "outputs_schema": (hidden,),
        "keyword_names": (),
        "inference_schema": ((hidden, prompts, hypo_ids), {}),
    }

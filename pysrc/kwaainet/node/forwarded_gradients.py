"""Training through a gateway: forward with prompts and back, through the servers that hold the blocks.

Follows Petals' client (client/sequential_autograd.py): what goes into each hop is kept on the way
forward and handed to it again on the way back. Rule of the file: a hop that is lost is replaced for its
own blocks only; an error that a server reports is its caller's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from ..compression.codec import TensorJoiner, deserialize, serialize, split_for_streaming
from ..errors import CapacityError, KwaaiNetError, LimitExceeded, ProtocolError, Unreachable
from ..inference.history import Budget
from ..ports import Floats, Host
from ..swarm import blocks as naming
from ..swarm.routing import Hop
from ..types import BlockRange, PeerId
from ..wire import msgpack
from ..wire.messages import ExpertRequest, ExpertResponse, Tensor
from .live_hop import loss_reason
from .swarm_view import SwarmView

log = logging.getLogger(__name__)

SERVICE = "TransformerConnectionHandler"
MAX_UNARY_PAYLOAD = 1 << 20  # bytes of tensors in one message: Petals' own limit, replies are no larger
PART_SIZE = 4 << 20
MAX_REQUESTS = 16  # at a time
_NO_PROMPTS = np.zeros(0, np.float32)


@dataclass(slots=True)
class _Way:
    """One request's: what is asked, and who has failed it."""

    blocks: BlockRange
    prompts: Floats | None
    avoid: set[PeerId] = field(default_factory=set)

    def prompts_of(self, blocks: BlockRange) -> Floats:
        if self.prompts is None:
            return _NO_PROMPTS
        return self.prompts[blocks.start - self.blocks.start : blocks.end - self.blocks.start]


class ForwardedGradients:
    """As ``gradients.SpanGradients``, elsewhere. Inputs that are kept count against ``history``."""

    def __init__(self, host: Host, view: SwarmView, prefix: str, history: Budget, timeout: float) -> None:
        self._host, self._view, self._prefix = host, view, prefix
        self._history, self._timeout = history, timeout
        self._requests = 0

    async def forward(self, hidden: Floats, blocks: BlockRange, prompts: Floats | None) -> Floats:
        """The output of the blocks, each block's prompt added to its first positions."""
        with ExitStack() as kept:
            self._admit(kept)
            output, _ = await self._through(hidden, _Way(blocks, prompts), blocks, kept, to_end=True)
            return output

    async def backward(
        self, hidden: Floats, grad: Floats, blocks: BlockRange, prompts: Floats | None
    ) -> tuple[Floats, Floats | None]:
        """(the gradient of ``hidden``, that of the prompts if there are any), given that of the output."""
        with ExitStack() as kept:
            self._admit(kept)
            back, deep = await self._back(hidden, grad, _Way(blocks, prompts), blocks, kept)
            return back, None if prompts is None else np.concatenate(deep)

    def _admit(self, kept: ExitStack) -> None:
        if self._requests >= MAX_REQUESTS:
            raise CapacityError(
                f"{MAX_REQUESTS} requests to train are under way; try later or another server"
            )
        self._requests += 1
        kept.callback(self._leave)

    def _leave(self) -> None:
        self._requests -= 1

    async def _through(
        self, hidden: Floats, way: _Way, blocks: BlockRange, kept: ExitStack, *, to_end: bool
    ) -> tuple[Floats, list[tuple[Hop, Floats]]]:
        """(the output, what went into each hop); without ``to_end`` the last hop is not asked."""
        inputs: list[tuple[Hop, Floats]] = []
        start = blocks.start
        while start < blocks.end:
            hop = (await self._view.route(BlockRange(start, blocks.end), 1, way.avoid))[0]
            if to_end or hop.blocks.end < blocks.end:
                try:
                    [output] = await self._ask(hop, "forward", [hidden, way.prompts_of(hop.blocks)], [hidden])
                except KwaaiNetError as error:
                    self._lost(hop, error, way)
                    continue
            else:
                output = hidden
            self._history.take(hidden.nbytes)
            kept.callback(self._history.give_back, hidden.nbytes)
            inputs.append((hop, hidden))
            hidden, start = output, hop.blocks.end
        return hidden, inputs

    async def _back(
        self, hidden: Floats, grad: Floats, way: _Way, blocks: BlockRange, kept: ExitStack
    ) -> tuple[Floats, list[Floats]]:
        """(the gradient of ``hidden``, those of the prompts in the order of the blocks)."""
        _, inputs = await self._through(hidden, way, blocks, kept, to_end=False)
        deep: list[Floats] = []
        for hop, states in reversed(inputs):
            prompts = way.prompts_of(hop.blocks)
            due = [grad] if way.prompts is None else [grad, prompts]
            try:
                grad, *found = await self._ask(hop, "backward", [states, grad, prompts], due)
            except KwaaiNetError as error:
                self._lost(hop, error, way)
                grad, found = await self._back(states, grad, way, hop.blocks, kept)
            deep = found + deep
        return grad, deep

    def _lost(self, hop: Hop, error: KwaaiNetError, way: _Way) -> None:
        """Go round a hop that is gone; raises an error that is the caller's."""
        reason = loss_reason(error)
        if reason is None:
            raise type(error)(f"server {hop.peer} (blocks {hop.blocks}) failed: {error}") from error
        log.info("server %s is lost for training: %s", hop.peer, error)
        self._view.failed(hop.peer, reason, str(error))
        way.avoid.add(hop.peer)

    # --- one call ---------------------------------------------------------------------------------

    async def _ask(
        self, hop: Hop, method: str, arrays: Sequence[Floats], due: Sequence[Floats]
    ) -> list[Floats]:
        """The arrays of one reply, which have the shapes of ``due``."""
        uid = naming.join(self._prefix, hop.blocks)
        names = tuple(b"__T%d" % index for index in range(len(arrays)))
        metadata = msgpack.dumps({"args_structure": (names, {})})
        tensors = [serialize(np.ascontiguousarray(array, np.float32)) for array in arrays]
        call = self._unary if sum(array.nbytes for array in arrays) <= MAX_UNARY_PAYLOAD else self._stream
        try:
            async with asyncio.timeout(self._timeout):
                replies = await call(hop.peer, f"{SERVICE}.rpc_{method}", uid, tensors, metadata)
        except TimeoutError:
            raise Unreachable(f"it did not answer within {self._timeout:g} s") from None
        found = [deserialize(tensor) for tensor in replies]
        if [array.shape for array in found] != [array.shape for array in due]:
            raise ProtocolError(f"it answered with shapes {[array.shape for array in found]}")
        if not all(np.isfinite(array).all() for array in found):
            raise ProtocolError("it answered with numbers that are not finite")
        return found

    async def _unary(
        self, peer: PeerId, protocol: str, uid: str, tensors: Sequence[Tensor], metadata: bytes
    ) -> Sequence[Tensor]:
        request = ExpertRequest(uid, tuple(tensors), metadata).encode()
        reply = await self._host.call(peer, protocol, request, timeout=self._timeout)
        return ExpertResponse.decode(reply).tensors

    async def _stream(
        self, peer: PeerId, protocol: str, uid: str, tensors: Sequence[Tensor], metadata: bytes
    ) -> Sequence[Tensor]:
        stream = await self._host.open_stream(peer, f"{protocol}_stream", timeout=self._timeout)
        try:
            for tensor in tensors:
                for part in split_for_streaming(tensor, PART_SIZE):
                    await stream.send(ExpertRequest(uid, (part,), metadata).encode())
            await stream.end()
            joiner, whole = TensorJoiner(), list[Tensor]()
            while (message := await stream.receive()) is not None:
                parts = ExpertResponse.decode(message).tensors
                whole += [done for part in parts if (done := joiner.add(part)) is not None]
                if len(whole) > len(tensors):
                    raise LimitExceeded(f"it answered with more than {len(tensors)} tensors")
            joiner.finish()
            return whole
        finally:
            await stream.close()

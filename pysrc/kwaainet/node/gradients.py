"""Training through a span: its blocks one after the other, forward with prompts and back.

Follows Petals' ``server/block_functions.py`` (run_rpc_forward, run_rpc_backward). Rule of the file:
serving comes first. Nothing is held until somebody trains; then at most ``budget`` bytes of weights
beside the engine's, the least used going first, and after ``IDLE_SECONDS`` without a request nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import numpy as np

from ..errors import CapacityError, EngineError, Paused, RequestError
from ..formats.config import ModelConfig
from ..inference.llama_gradients import backward_graph, forward_graph, tables, working_bytes
from ..ports import Floats, Gradients
from ..types import BlockRange

log = logging.getLogger(__name__)

BUDGET = 1 << 30  # bytes of float32 weights held for training
MAX_WORKING = 512 << 20  # bytes of one run beside the weights, and of what is kept on the way forward
MAX_WAITING = 16  # requests; Petals' clients send a large batch as several at once
IDLE_SECONDS = 120.0

LoadBlock = Callable[[int], Awaitable[Mapping[str, Floats]]]


class SpanGradients:
    """Forward and backward through blocks of the model, counted from the model's first.

    ``load`` gives a block's weights by Hugging Face's names, float32. Hidden states and gradients are
    float32 [batch, tokens, hidden], prompts [blocks, batch or 1, p, hidden] with p <= tokens.
    """

    def __init__(
        self,
        gradients: Gradients,
        config: ModelConfig,
        load: LoadBlock,
        max_run_tokens: int,
        budget: int = BUDGET,
    ) -> None:
        self._gradients, self._config, self._load = gradients, config, load
        self._max_run_tokens, self._budget = max_run_tokens, budget
        self._held: dict[int, int] = {}  # block -> bytes, the least used first
        self._tables: tuple[int, dict[str, Floats]] = (0, {})
        self._built = False
        self.refusing = False  # while the machine's owner has paused this server
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._idle: asyncio.TimerHandle | None = None
        self._releasing: asyncio.Task[None] | None = None

    async def forward(self, hidden: Floats, blocks: BlockRange, prompts: Floats | None) -> Floats:
        """The span's output, each block's prompt added to its first positions. Raises ``CapacityError``,
        ``EngineError`` and what loading raises."""
        outputs, portions = [], self._portions(hidden, blocks)
        async with self._in_turn():
            for rows in portions:
                states = hidden[rows]
                for block in range(blocks.start, blocks.end):
                    states = _prompted(states, _prompt(prompts, block - blocks.start, rows))
                    await self._hold(block)
                    states = await self._gradients.forward(block, states, self._tables_for(states))
                outputs.append(states)
        return _joined(outputs, hidden, 0)

    async def backward(
        self, hidden: Floats, grad: Floats, blocks: BlockRange, prompts: Floats | None
    ) -> tuple[Floats, Floats | None]:
        """(the gradient of ``hidden``, that of the prompts [blocks, batch, p, hidden] if there are any),
        given the gradient of the span's output. Raises as ``forward`` does."""
        inputs, deep, portions = [], [], self._portions(hidden, blocks)
        async with self._in_turn():
            for rows in portions:
                kept = await self._inputs(hidden[rows], blocks, prompts, rows)
                back, of_prompts = grad[rows], []
                for block in reversed(range(blocks.start, blocks.end)):
                    states = kept.pop()
                    await self._hold(block)
                    back = await self._gradients.backward(block, states, back, self._tables_for(states))
                    if prompts is not None:
                        of_prompts.append(back[:, : prompts.shape[2]])
                inputs.append(back)
                if prompts is not None:
                    deep.append(np.stack(of_prompts[::-1]))
        whole = None if prompts is None else _joined(deep, prompts, 1)
        return _joined(inputs, hidden, 0), whole

    async def close(self) -> None:
        """Release everything now."""
        if self._idle is not None:
            self._idle.cancel()
        self._built = False
        self._held.clear()
        await self._gradients.close()

    async def _inputs(
        self, states: Floats, blocks: BlockRange, prompts: Floats | None, rows: slice
    ) -> list[Floats]:
        """What each block gets, its prompt included."""
        kept = []
        for block in range(blocks.start, blocks.end):
            states = _prompted(states, _prompt(prompts, block - blocks.start, rows))
            kept.append(states)
            if block + 1 < blocks.end:
                await self._hold(block)
                states = await self._gradients.forward(block, states, self._tables_for(states))
        return kept

    def _portions(self, hidden: Floats, blocks: BlockRange) -> list[slice]:
        """Rows that are computed at once: others wait no longer than that takes."""
        batch, tokens = hidden.shape[:2]
        if tokens == 0:
            return []
        each = working_bytes(self._config, 1, tokens) + hidden[0].nbytes * len(blocks)
        if each > MAX_WORKING:
            raise CapacityError(
                f"training on {tokens} tokens takes {each >> 20} MiB a row; this server gives "
                f"{MAX_WORKING >> 20} MiB to it: send shorter sequences"
            )
        size = max(1, min(self._max_run_tokens // tokens, MAX_WORKING // each))
        return [slice(first, first + size) for first in range(0, batch, size)]

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """One request at a time; the graphs are built for the first, and all goes after the last."""
        if self.refusing:
            raise Paused("the machine's owner has paused this server; train through another")
        if self._waiting >= MAX_WAITING:
            raise CapacityError(f"{MAX_WAITING} requests to train wait already; try later or another server")
        self._waiting += 1
        try:
            async with self._turn:
                if self._idle is not None:
                    self._idle.cancel()
                try:
                    if not self._built:
                        graphs = forward_graph(self._config), backward_graph(self._config)
                        await self._gradients.build(*graphs)
                        self._built = True
                    yield
                except EngineError:
                    await self.close()  # the next request starts afresh
                    raise
                finally:
                    self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._release)
        finally:
            self._waiting -= 1

    def _release(self) -> None:
        async def release() -> None:
            async with self._turn:
                if self._waiting == 0:
                    log.info("nobody trains any more: releasing %d blocks", len(self._held))
                    await self.close()

        self._releasing = asyncio.ensure_future(release())

    async def _hold(self, block: int) -> None:
        """Have the block's weights in the adapter."""
        if block in self._held:
            self._held[block] = self._held.pop(block)
            return
        size = 4 * sum(int(np.prod(shape)) for shape in self._config.block_shapes().values())
        if size > self._budget:
            raise CapacityError(
                f"one block takes {size >> 20} MiB of weights; "
                f"this server holds {self._budget >> 20} MiB for training"
            )
        while sum(self._held.values()) + size > self._budget:
            oldest = next(iter(self._held))
            del self._held[oldest]
            await self._gradients.drop_block(oldest)
        await self._gradients.add_block(block, await self._load(block))
        self._held[block] = size

    def _tables_for(self, hidden: Floats) -> dict[str, Floats]:
        tokens = hidden.shape[1]
        if self._tables[0] != tokens:
            self._tables = tokens, tables(self._config, tokens)
        return self._tables[1]


def no_gradients() -> RequestError:
    """What a server that does not train says."""
    return RequestError(
        "this server computes no gradients (rpc_backward, deep prompts); train through other servers"
    )


def _prompt(prompts: Floats | None, index: int, rows: slice) -> Floats | None:
    if prompts is None:
        return None
    found: Floats = prompts[index] if prompts.shape[1] == 1 else prompts[index, rows]
    return found


def _prompted(states: Floats, prompt: Floats | None) -> Floats:
    """``prompt`` added to the first positions of a copy."""
    if prompt is None:
        return states
    states = states.copy()
    states[:, : prompt.shape[1]] += prompt
    return states


def _joined(parts: list[Floats], like: Floats, axis: int) -> Floats:
    if not parts:
        return np.zeros(like.shape, np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)

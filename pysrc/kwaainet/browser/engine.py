"""The Engine port in a tab: onnxruntime-web behind ``web/bridge/engine.ts``, on wasm or webgpu.

Rule of the file: the books of the caches are kept here, their tensors there; what crosses is plain
data and flat typed arrays, each copied once and owned by its receiver. (A view of the Python heap
would be free, but is cut off whenever that heap grows; a step's hidden states are a few KiB.)

Where the KV caches live, and why, is told at the top of ``engine_wasm.ts`` and ``engine_webgpu.ts``:
neither copies them per step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from js import Object
from numpy.typing import NDArray
from pyodide.ffi import JsException, to_js

from .. import errors
from ..errors import EngineError, LocalError
from ..formats.config import LlamaConfig
from ..inference.cache import Cache, CacheTable, Piece
from ..inference.llama import build_graph, rope_tables, span_shape, tensor_shapes
from ..inference.selftest import sample, self_test
from ..ports import Floats
from ..types import BlockRange, SpanShape

# Enough new positions at once that every kernel for long prefills is used.
PROBE_TOKENS = 40
_ERRORS = ("EngineError", "CapacityError", "DeviceLost")


@dataclass(slots=True)
class _Memory:
    """The engine's handle of one cache, and the lock that orders what is done to it."""

    handle: int
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class BrowserEngine:
    """Wraps the object that ``createEngine`` of ``web/bridge/engine.ts`` made."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._backend = str(engine.backend)
        self._tensors: dict[str, Any] = {}
        self._caches: CacheTable[_Memory] | None = None

    @property
    def backend(self) -> str:
        """``wasm`` or ``webgpu``."""
        return self._backend

    async def add_tensor(self, name: str, array: NDArray[Any]) -> None:
        """See ``ports.Engine``. The copy is made here and now, in the JavaScript heap."""
        self._tensors[name] = _bytes(array)

    async def build(self, graph: bytes, shape: SpanShape) -> None:
        """See ``ports.Engine``; on webgpu the device is first measured against the processor."""
        tensors, self._tensors = self._tensors, {}
        try:
            if self._backend == "webgpu":
                await self._verify_device(shape)
            await self._add(tensors)
            await _crossing(self._engine.build(to_js(graph), _js_shape(shape)))
            self._caches = CacheTable(shape)
            await self_test(self, shape)
        except LocalError:
            await self.close()
            raise

    async def open_cache(self, batch: int, max_length: int, blocks: BlockRange | None = None) -> int:
        """See ``ports.Engine``; ``CapacityError`` where memory or the model's positions end."""
        caches = self._built()
        blocks = caches.check(batch, max_length, blocks)
        handle = await _crossing(self._engine.openCache(batch, max_length, blocks.start, blocks.end))
        return caches.add(batch, max_length, blocks, _Memory(int(handle)))

    async def run(self, cache: int, hidden: Floats) -> Floats:
        """See ``ports.Engine``; ``CapacityError`` if the cache has no room for the positions.

        Cancelling leaves the cache as it was; a piece under way is computed to its end.
        """
        caches = self._built()
        entry = caches[cache]
        async with entry.storage.turn:
            result = np.empty(hidden.shape, np.float32)
            for piece in caches.plan(entry, hidden):
                await self._run_piece(entry, piece, hidden, result)
            entry.length += hidden.shape[1]
        return result

    async def truncate(self, cache: int, length: int) -> None:
        """See ``ports.Engine``; ``EngineError`` if the cache is shorter."""
        entry = self._built()[cache]
        async with entry.storage.turn:
            entry.truncate(length)

    async def reorder(self, cache: int, rows: Sequence[int]) -> None:
        """See ``ports.Engine``."""
        entry = self._built()[cache]
        async with entry.storage.turn:
            entry.check_rows(rows)
            await _crossing(self._engine.reorder(entry.storage.handle, to_js(list(rows)), entry.length))

    async def close_cache(self, cache: int) -> None:
        """See ``ports.Engine``; memory is released after a run under way."""
        entry = self._caches.remove(cache) if self._caches is not None else None
        if entry is not None:
            await _crossing(self._engine.closeCache(entry.storage.handle))

    async def close(self) -> None:
        """See ``ports.Engine``."""
        self._tensors, self._caches = {}, None
        await _crossing(self._engine.close())

    def _built(self) -> CacheTable[_Memory]:
        if self._caches is None:
            raise EngineError("the engine has no graph; build() it first")
        return self._caches

    async def _add(self, tensors: dict[str, Any]) -> None:
        while tensors:
            name, data = tensors.popitem()
            await _crossing(self._engine.addTensor(name, data))

    async def _run_piece(self, cache: Cache[_Memory], piece: Piece, hidden: Floats, result: Floats) -> None:
        rows, positions = slice(piece.first_row, piece.end_row), slice(piece.first, piece.end)
        part = np.ascontiguousarray(hidden[rows, positions])
        place = to_js(
            {
                "firstRow": piece.first_row,
                "rows": piece.end_row - piece.first_row,
                "length": cache.length + piece.first,
            },
            dict_converter=Object.fromEntries,
        )
        data = to_js(part.reshape(-1))
        answer = await _crossing(self._engine.run(cache.storage.handle, place, part.shape[1], data))
        computed = np.empty_like(part)  # not into part: that may be the caller's own memory
        answer.assign_to(computed.reshape(-1))
        result[rows, positions] = computed

    async def _verify_device(self, shape: SpanShape) -> None:
        config = _probe_config(shape)
        tensors = dict(rope_tables(config))
        for name, dims in tensor_shapes(config, 1):
            wave = np.sin(np.arange(np.prod(dims), dtype=np.float32) * np.float32(0.7)).reshape(dims)
            tensors.setdefault(name, np.float32(1) + wave if len(dims) == 1 else wave / np.float32(8))
        await self._add({name: _bytes(array) for name, array in tensors.items()})
        hidden = to_js(sample(PROBE_TOKENS + 1, config.hidden_size).reshape(-1))
        probe = _js_shape(span_shape(config, 1))
        await _crossing(self._engine.verify(to_js(build_graph(config, 1)), probe, PROBE_TOKENS, hidden))


def _probe_config(shape: SpanShape) -> LlamaConfig:
    """One small block whose attention is of the span's kind: the part that devices get wrong."""
    return LlamaConfig(
        num_hidden_layers=1,
        hidden_size=64,
        intermediate_size=64,
        num_attention_heads=2 * shape.kv_heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=1,
        max_position_embeddings=2 * PROBE_TOKENS,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True,
    )


def _js_shape(shape: SpanShape) -> Any:
    fields = {
        "blocks": shape.blocks,
        "hiddenSize": shape.hidden_size,
        "kvHeads": shape.kv_heads,
        "headDim": shape.head_dim,
    }
    return to_js(fields, dict_converter=Object.fromEntries)


def _bytes(array: NDArray[Any]) -> Any:
    """A fresh Uint8Array of the array's bytes, row by row."""
    return to_js(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


async def _crossing(promise: Awaitable[Any]) -> Any:
    """Await JavaScript; its errors become ours by name."""
    try:
        return await promise
    except JsException as error:
        name, message = str(getattr(error, "name", "")), str(getattr(error, "message", error))
        kind = getattr(errors, name) if name in _ERRORS else EngineError
        raise kind(message) from error

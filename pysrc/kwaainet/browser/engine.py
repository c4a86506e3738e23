"""The Engine port in a tab, behind ``web/bridge/engine.ts``: our kernels on wasm, onnxruntime-web on webgpu.

Rule of the file: the books of the caches, and whose rows of which slab they are, are kept here, their
tensors there; what crosses is plain data and flat typed arrays, each copied once and owned by its
receiver. (A view of the Python heap would be free, but is cut off whenever that heap grows; a step's
hidden states are a few KiB.)

Where the KV caches live, and why, is told at the top of ``engine_simd.ts`` and ``engine_webgpu.ts``:
neither copies them per step.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from js import Object
from numpy.typing import NDArray
from pyodide.ffi import to_js

from ..errors import CapacityError, DeviceLost, EngineError, LocalError
from ..formats.config import ModelConfig
from ..inference.batching import check_steps, step_runs
from ..inference.cache import Cache, CacheTable
from ..inference.graph import OnnxWriter
from ..inference.matrices import Form
from ..inference.selftest import sample, self_test
from ..inference.slabs import Change, Slab, Slabs
from ..ports import Floats, StepResult
from ..types import BlockRange, SpanShape
from .crossing import crossed, crossing

# Enough new positions at once that every kernel for long prefills is used.
PROBE_TOKENS = 40
# Rows without a step that a run of steps goes over rather than being two runs. On wasm a row takes about half
# as long as a run of it alone. A graphics device hardly notices rows, but would have to copy those of a run
# for part of a slab.
_BRIDGES = {"wasm": 1, "webgpu": None}
# One of each form: a device that has a kernel wrong is found out.
_PROBE_FORMS = {"0.qkv": Form.Q4, "0.o": Form.Q8, "0.gate_up": Form.Q4_WITH_ZEROS}


class BrowserEngine:
    """Wraps the object that ``createEngine`` of ``web/bridge/engine.ts`` made."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._backend = str(engine.backend)
        self._tensors: dict[str, Any] = {}
        self._caches: CacheTable[Slab[int]] | None = None  # slabs by JavaScript's handles
        self._slabs: Slabs[int] = Slabs(0)
        self._turn = asyncio.Lock()  # rows move only between runs

    @property
    def backend(self) -> str:
        """``wasm`` or ``webgpu``."""
        return self._backend

    @property
    def half(self) -> bool:
        """Whether the device has ``shader-f16``."""
        return bool(self._engine.half)

    @property
    def graphs(self) -> str:
        """See ``ports.Engine``."""
        return str(self._engine.graphs)

    async def add_tensor(self, name: str, array: NDArray[Any]) -> None:
        """See ``ports.Engine``. The copy is made here and now, in the JavaScript heap."""
        self._tensors[name] = _bytes(array)

    async def build(self, graph: bytes, shape: SpanShape) -> None:
        """See ``ports.Engine``; on webgpu the device is first measured against the processor."""
        tensors, self._tensors = self._tensors, {}
        try:
            if self._backend == "webgpu":
                await self._verify_device(shape, any(name.endswith(".quants") for name in tensors))
            await self._add(tensors)
            await crossing(self._engine.build(to_js(graph), _js_shape(shape)))
            self._caches, self._slabs = CacheTable(shape), Slabs(shape.max_positions)
            await self_test(self, shape)
        except LocalError:
            await self.close()
            raise

    async def open_cache(self, batch: int, max_length: int, blocks: BlockRange | None = None) -> int:
        """See ``ports.Engine``; ``CapacityError`` where memory or the model's positions end."""
        caches = self._built()
        blocks = caches.check(batch, max_length, blocks)
        async with self._turn:
            change = self._slabs.room(batch, max_length)
            if change is not None:
                await self._rearrange(change)
            slab = self._slabs.find(batch, max_length)
            handle = caches.add(batch, max_length, blocks, slab)
            slab.enter(caches[handle])
        return handle

    async def run(self, cache: int, hidden: Floats) -> Floats:
        """See ``ports.Engine``; ``CapacityError`` if the cache has no room for the positions.

        Cancelling leaves the cache as it was; a piece under way is computed to its end.
        """
        caches = self._built()
        async with self._turn:
            entry = caches[cache]
            result = np.empty(hidden.shape, np.float32)
            for piece in caches.plan(entry, hidden):
                rows, positions = slice(piece.first_row, piece.end_row), slice(piece.first, piece.end)
                x = np.ascontiguousarray(hidden[rows, positions])
                lengths = [entry.length + piece.first] * len(x)
                first_row = entry.first_row + piece.first_row
                result[rows, positions] = await self._compute(
                    entry.storage, first_row, lengths, entry.blocks, x
                )
            entry.length += hidden.shape[1]
        return result

    async def run_many(self, steps: Sequence[tuple[int, Floats]]) -> list[StepResult]:
        """See ``ports.Engine``; on webgpu a run is for whole slabs, elsewhere for the rows that step."""
        async with self._turn:
            results, sound = check_steps(self._built(), steps)
            done: list[Cache[Slab[int]]] = []
            for run in step_runs(sound, _BRIDGES[self._backend]):
                x = run.gather([hidden for _, hidden in steps])
                try:
                    y = await self._compute(run.slab, run.first_row, run.lengths, run.blocks, x)
                except DeviceLost:
                    raise
                except LocalError as error:
                    for index, _ in run.steps:
                        results[index] = error
                    continue
                run.scatter(y, results)
                done += [cache for _, cache in run.steps]
            for cache in done:
                cache.length += 1
        return results

    async def truncate(self, cache: int, length: int) -> None:
        """See ``ports.Engine``; ``EngineError`` if the cache is shorter."""
        async with self._turn:
            self._built()[cache].truncate(length)

    async def reorder(self, cache: int, rows: Sequence[int]) -> None:
        """See ``ports.Engine``."""
        async with self._turn:
            entry = self._built()[cache]
            entry.check_rows(rows)
            slab = entry.storage.memory
            moving = self._engine.reorder(slab, entry.first_row, to_js(list(rows)), entry.length)
            await crossing(moving)

    async def close_cache(self, cache: int) -> None:
        """See ``ports.Engine``; memory is released after a run under way."""
        async with self._turn:
            entry = self._caches.remove(cache) if self._caches is not None else None
            change = self._slabs.leave(entry) if entry is not None else None
            if change is not None and change.rows:
                with contextlib.suppress(CapacityError):  # then it stays where it is
                    await self._rearrange(change)
            elif change is not None and change.slab is not None:
                await crossing(self._engine.closeSlab(change.slab.memory))

    async def close(self) -> None:
        """See ``ports.Engine``."""
        self._tensors, self._caches, self._slabs = {}, None, Slabs(0)
        await crossing(self._engine.close())

    def _built(self) -> CacheTable[Slab[int]]:
        if self._caches is None:
            raise EngineError("the engine has no graph; build() it first")
        return self._caches

    async def _add(self, tensors: dict[str, Any]) -> None:
        while tensors:
            name, data = tensors.popitem()
            await crossing(self._engine.addTensor(name, data))

    async def _rearrange(self, change: Change[int]) -> None:
        memory = int(await crossing(self._engine.openSlab(change.rows, change.capacity)))
        unwanted = memory
        try:
            if change.slab is not None:
                old, moves = change.slab.memory, _plain([asdict(move) for move in change.moves])
                await crossing(self._engine.copyRows(old, memory, moves))
                unwanted = old
            self._slabs.commit(change, memory)
        finally:
            if change.slab is not None:
                self._engine.closeSlab(unwanted)  # in its turn, whether or not anybody waits

    async def _compute(
        self, slab: Slab[int], first_row: int, lengths: Sequence[int], blocks: BlockRange, x: Floats
    ) -> Floats:
        """One run on the rows of ``slab`` from ``first_row`` on; x [rows, n, hidden] -> the same shape."""
        data, tokens = to_js(x.reshape(-1)), x.shape[1]
        place = first_row, to_js(list(lengths)), blocks.start, blocks.end
        answer = crossed(self._engine.runNow, slab.memory, *place, tokens, data)
        if answer is None:
            names = ("firstRow", "lengths", "first", "end")
            waited = _plain(dict(zip(names, (first_row, list(lengths), *place[2:]), strict=True)))
            answer = await crossing(self._engine.run(slab.memory, waited, tokens, data))
        computed = np.empty(x.shape, np.float32)  # not into x: that may be the caller's own memory
        answer.assign_to(computed.reshape(-1))
        return computed

    async def _verify_device(self, shape: SpanShape, quantized: bool) -> None:
        config = _probe_config(shape)
        real = "float16" if shape.half else "float32"
        writer = OnnxWriter(config, BlockRange(0, 1), _PROBE_FORMS if quantized else {}, real=real)
        tensors = dict(writer.constants())
        for name, dtype, dims in writer.tensor_shapes():
            tensors.setdefault(name, _probe_tensor(name, dtype, dims))
        await self._add({name: _bytes(array) for name, array in tensors.items()})
        hidden = to_js(sample(PROBE_TOKENS + 1, config.hidden_size).reshape(-1))
        probe = _js_shape(writer.shape)
        await crossing(self._engine.verify(to_js(writer.graph()), probe, PROBE_TOKENS, hidden))


def _probe_config(shape: SpanShape) -> ModelConfig:
    """One small block whose attention is of the span's kind: the part that devices get wrong."""
    return ModelConfig(
        num_hidden_layers=1,
        hidden_size=64,
        intermediate_size=64,
        num_attention_heads=2 * shape.kv_heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        sliding_window=min(shape.window, PROBE_TOKENS // 2) or None,
        attn_logit_softcapping=shape.softcap or None,
        vocab_size=1,
        max_position_embeddings=2 * PROBE_TOKENS,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=True,
    )


def _probe_tensor(name: str, dtype: str, dims: tuple[int, ...]) -> NDArray[Any]:
    count = np.arange(np.prod(dims)).reshape(dims)
    if dtype == "uint8":
        return (count * 37 % 256).astype(np.uint8)
    wave = np.sin(count * 0.7)
    scale = {"scales": wave / 256, "zeros": 8 + wave}
    values: NDArray[Any] = 1 + wave if len(dims) == 1 else scale.get(name.rpartition(".")[2], wave / 8)
    return values.astype(dtype)


def _js_shape(shape: SpanShape) -> Any:
    fields = {
        "blocks": shape.blocks,
        "hiddenSize": shape.hidden_size,
        "kvHeads": shape.kv_heads,
        "headDim": shape.head_dim,
        "switches": list(shape.switches),
        "half": shape.half,
    }
    return _plain(fields)


def _plain(value: Any) -> Any:
    """Numbers, lists and dicts as JavaScript has them."""
    return to_js(value, dict_converter=Object.fromEntries)


def _bytes(array: NDArray[Any]) -> Any:
    """A fresh Uint8Array of the array's bytes, row by row."""
    return to_js(np.ascontiguousarray(array).reshape(-1).view(np.uint8))

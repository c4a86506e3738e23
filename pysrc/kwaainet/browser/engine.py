"""The Engine port in a tab, behind ``web/bridge/engine.ts``: our kernels on wasm, onnxruntime-web on webgpu.

Rule of the file: the books of the caches, and whose rows of which slab they are, are kept in Python
(``node.slab_engine``), their tensors there; what crosses is plain data and flat typed arrays, each copied
once and owned by its receiver. (A view of the Python heap would be free, but is cut off whenever that heap
grows; a step's hidden states are a few KiB.)

Where the KV caches live, and why, is told at the top of ``engine_simd.ts`` and ``engine_webgpu.ts``:
neither copies them per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from js import Object
from numpy.typing import NDArray
from pyodide.ffi import to_js

from ..errors import LocalError
from ..formats.config import ModelConfig
from ..inference.cache import Cache
from ..inference.graph import OnnxWriter
from ..inference.matrices import Form
from ..inference.selftest import sample, self_test
from ..inference.slabs import Change, Slab
from ..node.slab_engine import SlabEngine
from ..ports import Floats
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


class BrowserEngine(SlabEngine[int]):
    """Wraps the object that ``createEngine`` of ``web/bridge/engine.ts`` made; slabs are its handles."""

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self._engine = engine
        self._backend = str(engine.backend)
        self.bridge = _BRIDGES[self._backend]
        self._tensors: dict[str, Any] = {}

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
        """See ``ports.Engine``. The copy is made here and now: on wasm where the kernels compute, so that no
        weights are held twice, else in the JavaScript heap."""
        if self._backend == "wasm":
            await self._add({name: _bytes(array)})
        else:
            self._tensors[name] = _bytes(array)

    async def build(self, graph: bytes, shape: SpanShape) -> None:
        """See ``ports.Engine``; on webgpu the device is first measured against the processor."""
        tensors, self._tensors = self._tensors, {}
        try:
            if self._backend == "webgpu":
                await self._verify_device(shape, any(name.endswith(".quants") for name in tensors))
            await self._add(tensors)
            await crossing(self._engine.build(to_js(graph), _js_shape(shape)))
            self._open_books(shape)
            await self_test(self, shape)
        except LocalError:
            await self.close()
            raise

    async def close(self) -> None:
        """See ``ports.Engine``."""
        self._tensors = {}
        self._close_books()
        await crossing(self._engine.close())

    async def _add(self, tensors: dict[str, Any]) -> None:
        while tensors:
            name, data = tensors.popitem()
            await crossing(self._engine.addTensor(name, data))

    async def _allocate(self, rows: int, capacity: int) -> int:
        return int(await crossing(self._engine.openSlab(rows, capacity)))

    async def _copy(self, change: Change[int], old: int, new: int) -> None:
        moves = _plain([asdict(move) for move in change.moves])
        await crossing(self._engine.copyRows(old, new, moves))

    async def _free(self, memory: int) -> None:
        await crossing(self._engine.closeSlab(memory))

    async def _permute(self, cache: Cache[Slab[int]], rows: list[int]) -> None:
        slab = cache.storage.memory
        await crossing(self._engine.reorder(slab, cache.first_row, to_js(rows), cache.length))

    async def _compute(
        self, slab: Slab[int], first_row: int, lengths: Sequence[int], blocks: BlockRange, x: Floats
    ) -> Floats:
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

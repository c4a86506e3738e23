"""The Engine port on onnxruntime's CPU provider.

Rule of the file: one run at a time, in one worker thread, so that the event loop stays alive; what
a cache holds changes only on the event loop, after its run has succeeded.

Keys and values are numpy arrays [rows, kv_heads, capacity, head_dim], the slabs of ``inference.slabs``,
bound as past and as present of the same run: the attention sees one buffer, writes the new positions
in place and copies nothing, so that a step costs nearly the same at position 50 and at position 500.
Truncating is only a smaller length. Rows lie one after another in memory, so that a run may be bound
to any adjacent ones: a prefill to those of its cache, decode steps to those of many caches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..errors import CapacityError, EngineError
from ..inference.cache import Cache
from ..inference.selftest import self_test
from ..inference.slabs import Change, Slab
from ..node.slab_engine import SlabEngine
from ..ports import Floats
from ..types import BlockRange, SpanShape

T = TypeVar("T")
Arrays: TypeAlias = dict[str, Floats]  # by graph name, such as k.0


@dataclass(frozen=True, slots=True)
class _Run:
    """What one run is bound to: arrays of the rows it is for, and their lengths before it."""

    arrays: Arrays
    switches: Arrays
    lengths: Sequence[int]
    x: Floats


class NativeEngine(SlabEngine[Arrays]):
    """Runs spans on the CPU; ``threads`` of onnxruntime work on each operator (0: all cores)."""

    backend = "cpu"
    half = True
    graphs = "onnx"
    # A run of one row of SmolLM2-135M takes 44 ms and each further row 2 (one core): one is worth many rows.
    bridge = 16

    def __init__(self, threads: int = 0) -> None:
        super().__init__()
        self._threads = threads
        self._tensors: dict[str, Any] = {}
        self._switches: Arrays = {}
        self._session: Any = None
        self._worker = ThreadPoolExecutor(1, "engine")

    async def add_tensor(self, name: str, array: NDArray[Any]) -> None:
        """See ``ports.Engine``."""
        self._tensors[name] = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))

    async def build(self, graph: bytes, shape: SpanShape) -> None:
        """See ``ports.Engine``."""
        tensors, self._tensors = self._tensors, {}
        self._switches = _take_switches(tensors, shape)
        self._session = await self._in_worker(_create_session, graph, tensors, self._threads)
        self._open_books(shape)
        try:
            await self_test(self, shape)
        except EngineError:
            await self.close()
            raise

    async def close(self) -> None:
        """See ``ports.Engine``."""
        self._tensors, self._switches, self._session = {}, {}, None
        self._close_books()
        self._worker.shutdown(wait=False)
        self._worker = ThreadPoolExecutor(1, "engine")

    async def _allocate(self, rows: int, capacity: int) -> Arrays:
        shape = self._built().shape
        dims = (rows, shape.kv_heads, capacity, shape.head_dim)
        names = [f"{letter}.{index}" for index in range(shape.blocks) for letter in "kv"]
        try:
            real = np.float16 if shape.half else np.float32
            return {name: np.zeros(dims, real) for name in names}
        except MemoryError as error:
            raise CapacityError(f"no memory for caches of {rows} rows of {capacity}") from error

    async def _copy(self, change: Change[Arrays], old: Arrays, new: Arrays) -> None:
        await self._in_worker(_move, change, old, new)

    async def _free(self, memory: Arrays) -> None:
        """It goes with its last user."""

    async def _permute(self, cache: Cache[Slab[Arrays]], rows: list[int]) -> None:
        await self._in_worker(_reorder, cache, rows)

    def _switches_for(self, blocks: BlockRange) -> Arrays:
        """The switches for runs through ``blocks``: zeros for those of blocks that these skip."""
        shape = self._built().shape
        return {
            name: self._switches[name] if index in blocks else np.zeros_like(self._switches[name])
            for index in range(shape.blocks)
            for name in shape.switches_of(index)
        }

    async def _compute(
        self, slab: Slab[Arrays], first_row: int, lengths: Sequence[int], blocks: BlockRange, x: Floats
    ) -> Floats:
        """Cancelling stops the computation soon."""
        arrays = {name: array[first_row : first_row + len(x)] for name, array in slab.memory.items()}
        run = _Run(arrays, self._switches_for(blocks), lengths, x)
        options = ort.RunOptions()
        try:
            return await self._in_worker(_run, self._session, options, run)
        except asyncio.CancelledError:
            options.terminate = True
            raise

    async def _in_worker(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)


def _take_switches(tensors: dict[str, Any], shape: SpanShape) -> dict[str, Floats]:
    """Move the switches, which are inputs of the graph, out of ``tensors``."""
    names = [name for index in range(shape.blocks) for name in shape.switches_of(index)]
    if missing := [name for name in names if name not in tensors]:
        raise EngineError(f"the tensor {missing[0]} was not added; the span needs it")
    values = [tensors.pop(name) for name in names]
    # copies: what an OrtValue gives as an array is its own memory, and goes with it
    return {name: value.numpy().copy() for name, value in zip(names, values, strict=True)}


def _create_session(graph: bytes, tensors: dict[str, Any], threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # but what is fatal: errors are raised with the same words
    options.add_external_initializers(list(tensors), list(tensors.values()))
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no other base
        raise EngineError(f"onnxruntime cannot build the span: {error}") from error


def _run(session: Any, options: Any, run: _Run) -> Floats:
    totals = np.array(run.lengths, np.int32) + run.x.shape[1]
    y = np.empty_like(run.x)
    binding = session.io_binding()
    inputs: dict[str, NDArray[Any]] = {
        "x": run.x,
        "seqlens_k": totals - np.int32(1),
        "total_seq": np.array(totals.max(), np.int32),
        **run.switches,
    }
    outputs: dict[str, NDArray[Any]] = {"y": y}
    for name, array in run.arrays.items():
        inputs[f"past_{name}"] = outputs[f"present_{name}"] = array
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    try:
        session.run_with_iobinding(binding, options)
    except Exception as error:  # onnxruntime's own exceptions share no other base
        raise EngineError(f"onnxruntime cannot run the span: {error}") from error
    return y


def _reorder(cache: Cache[Slab[Arrays]], rows: list[int]) -> None:
    own = slice(cache.first_row, cache.end_row)
    for array in cache.storage.memory.values():
        mine = array[own, :, : cache.length]
        mine[:] = mine[rows]


def _move(change: Change[Arrays], old: Arrays, new: Arrays) -> None:
    for name, array in new.items():
        for move in change.moves:
            source = old[name][move.source : move.source + move.count, :, : move.length]
            array[move.target : move.target + move.count, :, : move.length] = source

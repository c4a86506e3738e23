"""The Engine port on onnxruntime's CPU provider.

Rule of the file: one run at a time, in one worker thread, so that the event loop stays alive; what
a cache holds changes only on the event loop, after its run has succeeded.

A cache's keys and values are numpy arrays [batch, kv_heads, max_length, head_dim], bound as past
and as present of the same run: the attention sees one buffer, writes the new positions in place
and copies nothing, so that a step costs nearly the same at position 50 and at position 500.
Truncating is only a smaller length. The rows of a batch lie one after another in memory, so that
a run may also be bound to some of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..errors import CapacityError, EngineError
from ..inference.cache import Cache, CacheTable, Piece
from ..inference.llama import norm_names
from ..inference.selftest import self_test
from ..ports import Floats
from ..types import BlockRange, SpanShape

T = TypeVar("T")


@dataclass(slots=True)
class _Memory:
    """One cache's arrays by graph name (``k.0``), and the lock that orders what is done to them.

    ``norms`` are the weights of the norms for its runs: zeros for the blocks that these skip.
    """

    arrays: dict[str, Floats]
    norms: dict[str, Floats]
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class NativeEngine:
    """Runs spans on the CPU; ``threads`` of onnxruntime work on each operator (0: all cores)."""

    backend = "cpu"

    def __init__(self, threads: int = 0) -> None:
        self._threads = threads
        self._tensors: dict[str, Any] = {}
        self._norms: dict[str, Floats] = {}
        self._session: Any = None
        self._caches: CacheTable[_Memory] | None = None
        self._worker = ThreadPoolExecutor(1, "engine")

    async def add_tensor(self, name: str, array: NDArray[Any]) -> None:
        """See ``ports.Engine``."""
        self._tensors[name] = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))

    async def build(self, graph: bytes, shape: SpanShape) -> None:
        """See ``ports.Engine``."""
        tensors, self._tensors = self._tensors, {}
        self._norms = _take_norms(tensors, shape)
        self._session = await self._in_worker(_create_session, graph, tensors, self._threads)
        self._caches = CacheTable(shape)
        try:
            await self_test(self, shape)
        except EngineError:
            await self.close()
            raise

    async def open_cache(self, batch: int, max_length: int, blocks: BlockRange | None = None) -> int:
        """See ``ports.Engine``; ``CapacityError`` where memory or the model's positions end."""
        caches = self._built()
        blocks = caches.check(batch, max_length, blocks)
        shape = caches.shape
        dims = (batch, shape.kv_heads, max_length, shape.head_dim)
        names = [f"{letter}.{index}" for index in range(shape.blocks) for letter in "kv"]
        try:
            arrays = {name: np.zeros(dims, np.float32) for name in names}
        except MemoryError as error:
            raise CapacityError(f"no memory for a cache of {batch} rows of {max_length}") from error
        skipped = np.zeros(shape.hidden_size, np.float32)
        norms = {
            name: self._norms[name] if index in blocks else skipped
            for index in range(shape.blocks)
            for name in norm_names(index)
        }
        return caches.add(batch, max_length, blocks, _Memory(arrays, norms))

    async def run(self, cache: int, hidden: Floats) -> Floats:
        """See ``ports.Engine``; ``CapacityError`` if the cache has no room for the positions.

        Cancelling stops the computation soon and leaves the cache as it was.
        """
        caches = self._built()
        entry = caches[cache]
        async with entry.storage.turn:
            result = np.empty(hidden.shape, np.float32)
            for piece in caches.plan(entry, hidden):
                options = ort.RunOptions()
                try:
                    await self._in_worker(_run, self._session, options, entry, piece, hidden, result)
                except asyncio.CancelledError:
                    options.terminate = True
                    raise
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
            await self._in_worker(_reorder, entry, list(rows))

    async def close_cache(self, cache: int) -> None:
        """See ``ports.Engine``; a run under way keeps the memory until it ends."""
        if self._caches is not None:
            self._caches.remove(cache)

    async def close(self) -> None:
        """See ``ports.Engine``."""
        self._tensors, self._norms, self._session, self._caches = {}, {}, None, None
        self._worker.shutdown(wait=False)
        self._worker = ThreadPoolExecutor(1, "engine")

    def _built(self) -> CacheTable[_Memory]:
        if self._caches is None:
            raise EngineError("the engine has no graph; build() it first")
        return self._caches

    async def _in_worker(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)


def _take_norms(tensors: dict[str, Any], shape: SpanShape) -> dict[str, Floats]:
    """Move the weights of the norms, which are inputs of the graph, out of ``tensors``."""
    names = [name for index in range(shape.blocks) for name in norm_names(index)]
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


def _run(
    session: Any, options: Any, cache: Cache[_Memory], piece: Piece, hidden: Floats, result: Floats
) -> None:
    """Run one piece and write its rows and positions of ``result``."""
    rows, positions = slice(piece.first_row, piece.end_row), slice(piece.first, piece.end)
    x = np.ascontiguousarray(hidden[rows, positions])
    total = cache.length + piece.end
    y = np.empty_like(x)
    binding = session.io_binding()
    inputs: dict[str, NDArray[Any]] = {
        "x": x,
        "seqlens_k": np.full(len(x), total - 1, np.int32),
        "total_seq": np.array(total, np.int32),
        **cache.storage.norms,
    }
    outputs: dict[str, NDArray[Any]] = {"y": y}
    for name, array in cache.storage.arrays.items():
        inputs[f"past_{name}"] = outputs[f"present_{name}"] = array[rows]
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    try:
        session.run_with_iobinding(binding, options)
    except Exception as error:  # onnxruntime's own exceptions share no other base
        raise EngineError(f"onnxruntime cannot run the span: {error}") from error
    result[rows, positions] = y


def _reorder(cache: Cache[_Memory], rows: list[int]) -> None:
    for array in cache.storage.arrays.values():
        array[:, :, : cache.length] = array[rows, :, : cache.length]

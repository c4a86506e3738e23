"""The Gradients port on onnxruntime's CPU provider.

Rule of the file: one run at a time, in one worker thread, so that the event loop stays alive. The
weights are inputs of each run and stay where they are: onnxruntime keeps no copy of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import onnxruntime as ort

from ..errors import EngineError
from ..ports import Floats

T = TypeVar("T")


class NativeGradients:
    """Runs blocks on the CPU; ``threads`` of onnxruntime work on each operator (0: all cores)."""

    def __init__(self, threads: int = 0) -> None:
        self._threads = threads
        self._sessions: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Floats]] = {}
        self._worker = ThreadPoolExecutor(1, "gradients")

    async def build(self, forward: bytes, backward: bytes) -> None:
        """See ``ports.Gradients``."""
        for name, graph in (("y", forward), ("dx", backward)):
            self._sessions[name] = await self._in_worker(_create_session, graph, self._threads)

    async def add_block(self, block: int, weights: Mapping[str, Floats]) -> None:
        """See ``ports.Gradients``."""
        self._blocks[block] = {name: np.ascontiguousarray(array) for name, array in weights.items()}

    async def drop_block(self, block: int) -> None:
        """See ``ports.Gradients``."""
        self._blocks.pop(block, None)

    async def forward(self, block: int, hidden: Floats, tables: Mapping[str, Floats]) -> Floats:
        """See ``ports.Gradients``."""
        return await self._run("y", block, {"x": hidden, **tables})

    async def backward(
        self, block: int, hidden: Floats, grad: Floats, tables: Mapping[str, Floats]
    ) -> Floats:
        """See ``ports.Gradients``."""
        return await self._run("dx", block, {"x": hidden, "dy": grad, **tables})

    async def close(self) -> None:
        """See ``ports.Gradients``."""
        self._sessions, self._blocks = {}, {}
        self._worker.shutdown(wait=False)
        self._worker = ThreadPoolExecutor(1, "gradients")

    async def _run(self, output: str, block: int, inputs: dict[str, Floats]) -> Floats:
        if output not in self._sessions or block not in self._blocks:
            raise EngineError(f"block {block} is not loaded, or there is no graph; build() and add it first")
        feeds = {name: np.ascontiguousarray(array) for name, array in inputs.items()} | self._blocks[block]
        options = ort.RunOptions()
        try:
            return await self._in_worker(_run, self._sessions[output], options, feeds)
        except asyncio.CancelledError:
            options.terminate = True
            raise

    async def _in_worker(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)


def _create_session(graph: bytes, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # but what is fatal: errors are raised with the same words
    options.enable_cpu_mem_arena = False  # what a long sequence took goes back after its run
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no other base
        raise EngineError(f"onnxruntime cannot build the gradients: {error}") from error


def _run(session: Any, options: Any, feeds: dict[str, Floats]) -> Floats:
    try:
        (result,) = session.run(None, feeds, options)
    except Exception as error:  # onnxruntime's own exceptions share no other base
        raise EngineError(f"onnxruntime cannot run the gradients: {error}") from error
    return np.asarray(result, np.float32)

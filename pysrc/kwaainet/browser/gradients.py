"""The Gradients port in a tab: onnxruntime-web behind ``web/bridge/gradients.ts``, always on wasm.

Rule of the file: what crosses is plain data and flat typed arrays, each copied once and owned by its
receiver. The JavaScript half is made by ``build`` and let go by ``close``, its heap with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
from pyodide.ffi import to_js

from ..errors import EngineError, LocalError
from ..ports import Floats
from .crossing import crossing


class BrowserGradients:
    """``create`` gives what ``createGradients`` of ``web/bridge/gradients.ts`` makes."""

    def __init__(self, create: Callable[[], Awaitable[Any]]) -> None:
        self._create = create
        self._js: Any = None
        self._turn = asyncio.Lock()

    async def build(self, forward: bytes, backward: bytes) -> None:
        """See ``ports.Gradients``."""
        async with self._turn:
            made = await crossing(self._create())
            await crossing(made.build(to_js(forward), to_js(backward)))
            self._js = made

    async def add_block(self, block: int, weights: Mapping[str, Floats]) -> None:
        """See ``ports.Gradients``."""
        async with self._turn:
            js = self._built()
            await crossing(_now(js.dropBlock, block))
            try:
                for name, array in weights.items():
                    await crossing(_now(js.addWeight, block, _input(name, array)))
            except LocalError:
                await crossing(_now(js.dropBlock, block))
                raise

    async def drop_block(self, block: int) -> None:
        """See ``ports.Gradients``."""
        async with self._turn:
            if self._js is not None:
                await crossing(_now(self._js.dropBlock, block))

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
        self._js = None

    async def _run(self, output: str, block: int, inputs: Mapping[str, Floats]) -> Floats:
        async with self._turn:
            given = to_js([_input(name, array) for name, array in inputs.items()])
            answer = await crossing(self._built().run(output, block, given))
        result = np.empty(inputs["x"].shape, np.float32)
        answer.assign_to(result.reshape(-1))
        return result

    def _built(self) -> Any:
        if self._js is None:
            raise EngineError("there are no graphs to train with; build() them first")
        return self._js


async def _now(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _input(name: str, array: Floats) -> Any:
    """[name, flat copy, dimensions]."""
    flat = to_js(np.ascontiguousarray(array, np.float32).reshape(-1))
    return to_js([name, flat, list(array.shape)])

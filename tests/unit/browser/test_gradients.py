"""The Python half of a tab's gradients, over blocks in numpy that speak like web/bridge/gradients.ts."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from unit.browser.javascript import JsError, TypedArray, to_js

from kwaainet.errors import CapacityError, EngineError
from kwaainet.formats.config import ModelConfig
from kwaainet.testing import clock
from kwaainet.testing.gradients import NumpyGradients
from kwaainet.testing.gradients_compliance import CHECKS, check, states, tables, weights
from kwaainet.testing.model import TINY


class JsGradients:
    """Blocks in numpy behind the names of the TypeScript half."""

    def __init__(self, config: ModelConfig) -> None:
        self.numpy = NumpyGradients(config)
        self.weights: dict[int, dict[str, Any]] = {}
        self.room = 1000

    async def build(self, forward: bytes, backward: bytes) -> None:
        assert forward != backward
        await self.numpy.build(forward, backward)

    def addWeight(self, block: int, given: Any) -> None:
        name, data, dims = given
        if len(self.weights.setdefault(block, {})) >= self.room:
            raise JsError("CapacityError", "the wasm heap has no 7 bytes left")
        self.weights[block][name] = data.values.reshape(dims)

    def dropBlock(self, block: int) -> None:
        self.weights.pop(block, None)

    async def run(self, output: str, block: int, inputs: Any) -> TypedArray:
        given = {name: data.values.reshape(dims) for name, data, dims in inputs}
        if block not in self.weights:
            raise JsError("EngineError", f"block {block} is not loaded")
        await self.numpy.add_block(block, self.weights[block])
        x = given.pop("x")
        if output == "y":
            return TypedArray((await self.numpy.forward(block, x, given)).reshape(-1))
        return TypedArray((await self.numpy.backward(block, x, given.pop("dy"), given)).reshape(-1))


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    js, pyodide, ffi = ModuleType("js"), ModuleType("pyodide"), ModuleType("pyodide.ffi")
    vars(js)["Object"] = None
    vars(ffi).update(to_js=to_js, JsException=JsError)
    vars(pyodide)["ffi"] = ffi
    for name, module in {"js": js, "pyodide": pyodide, "pyodide.ffi": ffi}.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("crossing", "gradients"):
        monkeypatch.delitem(sys.modules, f"kwaainet.browser.{name}", raising=False)
    yield importlib.import_module("kwaainet.browser.gradients")
    for name in ("crossing", "gradients"):
        sys.modules.pop(f"kwaainet.browser.{name}", None)


def make(browser: Any, made: list[JsGradients]) -> Any:
    def gradients(config: ModelConfig) -> Any:
        async def create() -> JsGradients:
            made.append(JsGradients(config))
            return made[-1]

        return browser.BrowserGradients(create)

    return gradients


@pytest.mark.parametrize("name", CHECKS)
def test_the_contract(browser: Any, name: str) -> None:
    clock.run(check(name, make(browser, [])))


def test_each_build_has_a_heap_of_its_own_and_closing_lets_it_go(browser: Any) -> None:
    async def main() -> None:
        made: list[JsGradients] = []
        ours = make(browser, made)(TINY)
        for _ in range(2):
            await ours.build(b"forward", b"backward")
            await ours.close()
        assert len(made) == 2
        with pytest.raises(EngineError, match="build"):
            await ours.add_block(0, weights(TINY, 0))

    clock.run(main())


def test_a_block_that_does_not_fit_leaves_nothing_behind(browser: Any) -> None:
    async def main() -> None:
        made: list[JsGradients] = []
        ours = make(browser, made)(TINY)
        await ours.build(b"forward", b"backward")
        made[0].room = 4
        with pytest.raises(CapacityError, match="no 7 bytes left"):
            await ours.add_block(3, weights(TINY, 0))
        assert made[0].weights == {}
        with pytest.raises(EngineError, match="block 3 is not loaded"):
            await ours.forward(3, states(TINY, 1, 2), tables(TINY, 2))

    clock.run(main())

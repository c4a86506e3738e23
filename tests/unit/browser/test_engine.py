"""The Python half of the tab's engine, over an engine in numpy that speaks like web/bridge/engine.ts."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from kwaainet import errors
from kwaainet.inference.llama import build_graph, rope_tables, span_shape
from kwaainet.ports import Floats
from kwaainet.testing import clock
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.engine_compliance import CHECKS, CONFIG, check, fill, hidden_states
from kwaainet.types import BlockRange, SpanShape


class JsError(Exception):
    """As Pyodide hands a JavaScript error over."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name, self.message = name, message


class TypedArray:
    """What to_js makes of an array: its own flat copy."""

    def __init__(self, array: Any) -> None:
        assert array.ndim == 1, "only flat arrays cross"
        self.values = array.copy()

    def assign_to(self, target: Any) -> None:
        assert target.flags.c_contiguous
        assert target.shape == self.values.shape
        target[:] = self.values


def to_js(value: Any, dict_converter: Any = None) -> Any:
    return TypedArray(value) if isinstance(value, np.ndarray) else value


class JsEngine:
    """Each row of a cache is a cache of its own in the numpy engine."""

    def __init__(self, backend: str = "wasm") -> None:
        self.backend = backend
        self.tensors: dict[str, bytes] = {}
        self.verified: list[dict[str, Any]] = []
        self.caches: dict[int, list[int]] = {}
        self.failure: JsError | None = None
        self.queue = asyncio.Lock()
        self.numpy = NumpyEngine()

    async def addTensor(self, name: str, data: TypedArray) -> None:
        self.tensors[name] = data.values.tobytes()

    async def verify(self, graph: bytes, shape: dict[str, int], tokens: int, hidden: TypedArray) -> None:
        self._fail()
        assert len(hidden.values) == (tokens + 1) * shape["hiddenSize"]
        await self._load(graph, shape)
        self.verified.append({**shape, "tokens": tokens})

    async def build(self, graph: bytes, shape: dict[str, int]) -> None:
        self._fail()
        await self._load(graph, shape)

    async def _load(self, graph: bytes, shape: dict[str, int]) -> None:
        from kwaainet.testing.engine import read_graph

        self.numpy = NumpyEngine()
        wanted = read_graph(graph)[1]
        for name, data in self.tensors.items():
            await self.numpy.add_tensor(name, np.frombuffer(data, np.float32).reshape(wanted.get(name, -1)))
        self.tensors = {}
        span = SpanShape(shape["blocks"], shape["hiddenSize"], shape["kvHeads"], shape["headDim"], 1 << 20)
        try:
            await self.numpy.build(graph, span)
        except errors.EngineError as error:
            raise JsError("EngineError", str(error)) from error

    async def openCache(self, batch: int, max_length: int, first: int, end: int) -> int:
        self._fail()
        rows = [await self.numpy.open_cache(1, max_length, BlockRange(first, end)) for _ in range(batch)]
        self.caches[max(self.caches, default=10) + 1] = rows
        return max(self.caches)

    def run(self, *arguments: Any) -> asyncio.Future[TypedArray]:
        """A promise: whoever stops waiting for it does not stop it."""
        return asyncio.shield(asyncio.ensure_future(self._run(*arguments)))

    async def _run(self, cache: int, place: dict[str, int], tokens: int, hidden: TypedArray) -> TypedArray:
        async with self.queue:
            await asyncio.sleep(1)
            return await self._compute(cache, place, tokens, hidden)

    async def _compute(
        self, cache: int, place: dict[str, int], tokens: int, hidden: TypedArray
    ) -> TypedArray:
        self._fail()
        found = []
        for row, part in enumerate(hidden.values.reshape(place["rows"], tokens, -1)):
            handle = self.caches[cache][place["firstRow"] + row]
            await self.numpy.truncate(handle, place["length"])
            found.append(await self.numpy.run(handle, part[None]))
        return TypedArray(np.concatenate(found).reshape(-1))

    async def reorder(self, cache: int, rows: list[int], length: int) -> None:
        books = [self.numpy._built()[handle] for handle in self.caches[cache]]
        stored = [book.storage for book in books]
        for book, source in zip(books, rows, strict=True):
            book.storage = stored[source]
            assert book.length >= length

    async def closeCache(self, cache: int) -> None:
        del self.caches[cache]

    async def close(self) -> None:
        self.caches, self.tensors = {}, {}

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


@pytest.fixture(scope="module")
def make() -> Iterator[Any]:
    """BrowserEngine, imported over stand-ins for what only Pyodide has."""
    names = ("js", "pyodide", "pyodide.ffi", "kwaainet.browser.engine")
    saved = {name: sys.modules.pop(name, None) for name in names}
    js, ffi = ModuleType("js"), ModuleType("pyodide.ffi")
    js.__dict__["Object"] = type("Object", (), {"fromEntries": dict})
    ffi.__dict__.update(JsException=JsError, to_js=to_js)
    sys.modules.update({"js": js, "pyodide": ModuleType("pyodide"), "pyodide.ffi": ffi})
    yield importlib.import_module("kwaainet.browser.engine").BrowserEngine
    for name, module in saved.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


@pytest.mark.parametrize("name", CHECKS)
def test_it_complies_with_the_port(make: Any, name: str) -> None:
    clock.run(check(name, lambda: make(JsEngine())))


@pytest.mark.parametrize("name", ["EngineError", "CapacityError", "DeviceLost"])
def test_errors_cross_by_name(make: Any, name: str) -> None:
    async def run() -> None:
        js = JsEngine()
        engine = make(js)
        await fill(engine)
        cache = await engine.open_cache(1, 4)
        js.failure = JsError(name, "the words")
        for call in (engine.run(cache, hidden_states(1, 2)), engine.open_cache(1, 4)):
            with pytest.raises(errors.LocalError, match="the words") as caught:
                await call
            assert type(caught.value).__name__ == name
        js.failure = None
        assert (await engine.run(cache, hidden_states(1, 4))).shape == (1, 4, CONFIG.hidden_size)

    clock.run(run())


def test_any_other_javascript_error_is_an_engine_error(make: Any) -> None:
    async def run() -> None:
        js = JsEngine()
        engine = make(js)
        await fill(engine)
        js.failure = JsError("TypeError", "undefined is not a function")
        with pytest.raises(errors.EngineError, match="undefined is not a function"):
            await engine.open_cache(1, 4)

    clock.run(run())


def test_a_graphics_device_is_verified_before_the_weights_go_to_it(make: Any) -> None:
    async def run() -> None:
        js = JsEngine("webgpu")
        engine = make(js)
        assert engine.backend == "webgpu"
        await fill(engine)
        expected = {"blocks": 1, "kvHeads": CONFIG.num_key_value_heads, "headDim": CONFIG.head_dim}
        assert expected.items() <= js.verified[0].items()
        assert js.verified[0]["tokens"] >= 32

    clock.run(run())


def test_a_device_that_fails_gets_no_weights(make: Any) -> None:
    async def run() -> None:
        js = JsEngine("webgpu")
        js.failure = JsError("EngineError", "this graphics device computes wrongly")
        engine = make(js)
        with pytest.raises(errors.EngineError, match="computes wrongly"):
            await fill(engine)
        assert not js.tensors
        with pytest.raises(errors.EngineError, match="build"):
            await engine.open_cache(1, 1)

    clock.run(run())


def test_a_cancelled_run_leaves_its_cache_as_it_was(make: Any) -> None:
    async def run() -> tuple[Floats, Floats]:
        engine = make(JsEngine())
        await fill(engine)
        hidden = hidden_states(1, 6)
        cache = await engine.open_cache(1, 6)
        await engine.run(cache, hidden[:, :2])
        task = asyncio.ensure_future(engine.run(cache, hidden_states(1, 3, seed=4)))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        found = await engine.run(cache, hidden[:, 2:])
        fresh = await engine.open_cache(1, 6)
        return found, (await engine.run(fresh, hidden))[:, 2:]

    found, expected = clock.run(run())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_tensors_are_copied_when_they_are_added(make: Any) -> None:
    async def run() -> None:
        engine = make(JsEngine())
        for name, table in rope_tables(CONFIG):
            await engine.add_tensor(name, table)
            table[:] = np.nan
        with pytest.raises(errors.EngineError, match="not those"):
            await engine.build(build_graph(CONFIG, 1), span_shape(CONFIG, 1))

    clock.run(run())

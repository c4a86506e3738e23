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
from unit.browser.javascript import JsError, TypedArray, to_js

from kwaainet import errors
from kwaainet.inference.graph import OnnxWriter
from kwaainet.ports import Floats
from kwaainet.testing import clock
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.engine_compliance import CHECKS, CONFIG, check, fill, hidden_states
from kwaainet.types import BlockRange, SpanShape


class JsEngine:
    """Slabs are arrays; a run gives each row to the numpy engine as a cache of its own."""

    def __init__(self, backend: str = "wasm") -> None:
        self.backend = backend
        self.graphs = "onnx"
        self.tensors: dict[str, bytes] = {}
        self.verified: list[dict[str, Any]] = []
        self.slabs: dict[int, dict[str, np.ndarray]] = {}
        self.runs: list[tuple[int, list[int]]] = []  # first row and lengths of each
        self.failure: JsError | None = None
        self.queue = asyncio.Lock()
        self.numpy = NumpyEngine()

    async def addTensor(self, name: str, data: TypedArray) -> None:
        self.tensors[name] = data.values.tobytes()

    async def verify(self, graph: bytes, shape: dict[str, Any], tokens: int, hidden: TypedArray) -> None:
        self._fail()
        assert len(hidden.values) == (tokens + 1) * shape["hiddenSize"]
        await self._load(graph, shape)
        self.verified.append({**shape, "tokens": tokens})

    async def build(self, graph: bytes, shape: dict[str, Any]) -> None:
        self._fail()
        await self._load(graph, shape)

    async def _load(self, graph: bytes, shape: dict[str, Any]) -> None:
        from kwaainet.testing.engine import read_graph

        self.numpy = NumpyEngine()
        wanted = read_graph(graph)[1]
        for name, data in self.tensors.items():
            array = np.frombuffer(data, np.uint8 if name.endswith(".quants") else np.float32)
            await self.numpy.add_tensor(name, array.reshape(wanted.get(name, -1)))
        self.tensors = {}
        sizes = (shape[name] for name in ("blocks", "hiddenSize", "kvHeads", "headDim"))
        span = SpanShape(*sizes, 1 << 20, tuple(shape["switches"]))
        try:
            await self.numpy.build(graph, span)
        except errors.EngineError as error:
            raise JsError("EngineError", str(error)) from error

    async def openSlab(self, rows: int, capacity: int) -> int:
        self._fail()
        handle = max(self.slabs, default=10) + 1
        shape = self.numpy._built().shape
        dims = (rows, shape.kv_heads, capacity, shape.head_dim)
        names = [f"present_{letter}.{index}" for index in range(shape.blocks) for letter in "kv"]
        self.slabs[handle] = {name: np.full(dims, np.nan, np.float32) for name in names}
        return handle

    def runNow(self, *arguments: Any) -> TypedArray | None:
        """Nothing: this one is always waited for."""
        return None

    def run(self, *arguments: Any) -> asyncio.Future[TypedArray]:
        """A promise: whoever stops waiting for it does not stop it."""
        return asyncio.shield(asyncio.ensure_future(self._run(*arguments)))

    async def _run(self, slab: int, place: dict[str, Any], tokens: int, hidden: TypedArray) -> TypedArray:
        async with self.queue:
            await asyncio.sleep(1)
            self._fail()
            self.runs.append((place["firstRow"], place["lengths"]))
            parts = hidden.values.reshape(len(place["lengths"]), 1, tokens, -1)
            blocks = BlockRange(place["first"], place["end"])
            found = []
            for row, (length, part) in enumerate(zip(place["lengths"], parts, strict=True)):
                arrays = {n: a[place["firstRow"] + row][None] for n, a in self.slabs[slab].items()}
                found.append(await self._row(arrays, length, blocks, part))
            return TypedArray(np.concatenate(found).reshape(-1))

    async def _row(
        self, arrays: dict[str, np.ndarray], length: int, blocks: BlockRange, part: np.ndarray
    ) -> np.ndarray:
        """Run a row that holds ``length`` positions; the new ones are written in place."""
        capacity = arrays["present_k.0"].shape[2]
        handle = await self.numpy.open_cache(1, capacity, blocks)
        entry = self.numpy._built()[handle]
        entry.length, entry.storage = length, arrays
        found = await self.numpy.run(handle, part)
        for name, array in entry.storage.items():
            arrays[name][:, :, length : array.shape[2]] = array[:, :, length:]
        await self.numpy.close_cache(handle)
        return found

    async def reorder(self, slab: int, first: int, rows: list[int], length: int) -> None:
        for array in self.slabs[slab].values():
            array[first : first + len(rows), :, :length] = array[[first + row for row in rows], :, :length]

    async def copyRows(self, source: int, target: int, moves: list[dict[str, int]]) -> None:
        for name, array in self.slabs[target].items():
            for move in moves:
                rows = slice(move["source"], move["source"] + move["count"])
                to = slice(move["target"], move["target"] + move["count"])
                array[to, :, : move["length"]] = self.slabs[source][name][rows, :, : move["length"]]

    def closeSlab(self, slab: int) -> asyncio.Future[None]:
        """Done whether or not it is waited for, as what JavaScript has begun."""
        del self.slabs[slab]
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def close(self) -> None:
        self.slabs, self.tensors = {}, {}

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


@pytest.fixture(scope="module")
def make() -> Iterator[Any]:
    """BrowserEngine, imported over stand-ins for what only Pyodide has."""
    names = ("js", "pyodide", "pyodide.ffi", "kwaainet.browser.crossing", "kwaainet.browser.engine")
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


def test_the_probe_attends_as_the_span_does(make: Any) -> None:
    make(JsEngine("webgpu"))
    probe = sys.modules["kwaainet.browser.engine"]._probe_config
    plain, special = (probe(SpanShape(1, 64, 2, 16, 64, window=at, softcap=at / 2)) for at in (0, 4096))
    assert (plain.sliding_window, plain.attn_logit_softcapping) == (None, None)
    assert (special.sliding_window, special.attn_logit_softcapping) == (20, 2048.0)


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


@pytest.mark.parametrize(
    ("backend", "runs"),
    [("wasm", [(0, [3, 3, 3]), (9, [3])]), ("webgpu", [(0, [3] * 10 + [0])])],
)
def test_steps_of_a_slab_are_few_runs(make: Any, backend: str, runs: list[Any]) -> None:
    """A few rows that take no part are run over; on webgpu all of the slab, which then is not copied."""

    async def run() -> None:
        js = JsEngine(backend)
        engine = make(js)
        await fill(engine)
        hidden = hidden_states(1, 4)
        caches = [await engine.open_cache(1, 8) for _ in range(10)]
        for cache in caches:
            await engine.run(cache, hidden[:, :3])
        js.runs.clear()
        results = await engine.run_many([(caches[row], hidden[:, 3:]) for row in (9, 0, 2)])
        assert js.runs == [(first, lengths) for first, lengths in runs]
        np.testing.assert_array_equal(results[0], results[1])
        for cache in caches:
            await engine.close_cache(cache)
        assert js.slabs == {}

    clock.run(run())


def test_a_run_of_steps_that_fails_leaves_their_caches_as_they_were(make: Any) -> None:
    async def run() -> None:
        js = JsEngine()
        engine = make(js)
        await fill(engine)
        hidden = hidden_states(1, 4)
        caches = [await engine.open_cache(1, 8) for _ in range(2)]
        for cache in caches:
            await engine.run(cache, hidden[:, :3])
        steps = [(cache, hidden[:, 3:]) for cache in caches]
        js.failure = JsError("EngineError", "no memory")
        assert [str(result) for result in await engine.run_many(steps)] == ["no memory"] * 2
        js.failure = JsError("DeviceLost", "gone")
        with pytest.raises(errors.DeviceLost):
            await engine.run_many(steps)
        js.failure = None
        found = await engine.run_many(steps)
        fresh = await engine.open_cache(1, 8)
        np.testing.assert_allclose(found[0], (await engine.run(fresh, hidden))[:, 3:], atol=1e-5)

    clock.run(run())


def test_tensors_are_copied_when_they_are_added(make: Any) -> None:
    async def run() -> None:
        engine = make(JsEngine())
        writer = OnnxWriter(CONFIG, BlockRange(0, 1))
        for name, table in writer.constants():
            await engine.add_tensor(name, table)
            table[:] = np.nan
        with pytest.raises(errors.EngineError, match="not those"):
            await engine.build(writer.graph(), writer.shape)

    clock.run(run())

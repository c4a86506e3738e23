"""What the native engine does beside the port's compliance suite: threads, cancelling, odd graphs."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest

from kwaainet.errors import CapacityError, EngineError
from kwaainet.formats.config import ModelConfig
from kwaainet.formats.weights import weights_of
from kwaainet.inference.graph import OnnxWriter
from kwaainet.native import engine as module
from kwaainet.native.engine import NativeEngine
from kwaainet.ports import Engine, Floats
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.engine_compliance import CONFIG, fill, hidden_states, random_weights
from kwaainet.types import BlockRange

LONG, ROWS = 300, 16  # a quarter of a second of one processor
ONE_BLOCK = OnnxWriter(CONFIG, BlockRange(0, 1))


def test_the_event_loop_stays_alive_during_a_run() -> None:
    async def run() -> int:
        engine = NativeEngine(threads=1)
        await fill(engine)
        cache = await engine.open_cache(8, LONG)
        task = asyncio.ensure_future(engine.run(cache, hidden_states(8, LONG)))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        await engine.close()
        return turns

    assert asyncio.run(run()) > 10, "one or two are those before and after it"


def test_a_cancelled_run_leaves_its_cache_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()
    compute = module._run

    def begin(*arguments: Any) -> Floats:
        begun.set()
        return compute(*arguments)

    monkeypatch.setattr(module, "_run", begin)

    async def run() -> None:
        engine = NativeEngine(threads=1)
        await fill(engine)
        cache = await engine.open_cache(ROWS, LONG)
        hidden = hidden_states(ROWS, 5)
        await engine.run(cache, hidden[:, :3])
        begun.clear()
        task = asyncio.ensure_future(engine.run(cache, hidden_states(ROWS, LONG - 3, seed=2)))
        while not begun.is_set():
            await asyncio.sleep(0)
        assert not task.done(), "the run was over before it could be cancelled"
        began = time.process_time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        after = await engine.run(cache, hidden[:, 3:])
        spent = time.process_time() - began
        fresh = await engine.open_cache(ROWS, LONG)
        expected = await engine.run(fresh, hidden)
        np.testing.assert_allclose(after, expected[:, 3:], atol=1e-5)
        began = time.process_time()
        await engine.run(await engine.open_cache(ROWS, LONG), hidden_states(ROWS, LONG - 3, seed=2))
        whole = time.process_time() - began
        assert spent < whole / 2, "the rest of a cancelled run was computed"
        await engine.close()

    asyncio.run(run())


def test_runs_on_one_cache_follow_each_other() -> None:
    async def run() -> None:
        engine = NativeEngine(threads=2)
        await fill(engine)
        hidden = hidden_states(1, 12)
        cache, whole = await engine.open_cache(1, 12), await engine.open_cache(1, 12)
        parts = await asyncio.gather(*(engine.run(cache, hidden[:, at : at + 3]) for at in range(0, 12, 3)))
        expected = await engine.run(whole, hidden)
        np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=1e-5)
        await engine.close()

    asyncio.run(run())


def test_what_is_no_graph_is_refused_in_onnxruntimes_words() -> None:
    async def run() -> None:
        engine = NativeEngine(threads=1)
        for name in ONE_BLOCK.shape.switches_of(0):
            await engine.add_tensor(name, np.ones(CONFIG.hidden_size, np.float32))
        await engine.build(b"not a graph", ONE_BLOCK.shape)

    with pytest.raises(EngineError, match="onnxruntime cannot build the span: "):
        asyncio.run(run())


@pytest.mark.parametrize("wrong", ["cos", "0.o", "0.post_norm"])
def test_a_tensor_of_another_shape_is_refused(wrong: str) -> None:
    async def run() -> None:
        engine = NativeEngine(threads=1)
        tensors = dict(ONE_BLOCK.constants()) | dict(
            ONE_BLOCK.pack_block(0, weights_of(random_weights(CONFIG, 0)))
        )
        tensors[wrong] = tensors[wrong][:-1]
        for name, tensor in tensors.items():
            await engine.add_tensor(name, tensor)
        await engine.build(ONE_BLOCK.graph(), ONE_BLOCK.shape)

    with pytest.raises(EngineError, match="onnxruntime cannot"):
        asyncio.run(run())


def test_a_cache_that_no_memory_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise MemoryError

    async def run() -> None:
        engine = NativeEngine(threads=1)
        await fill(engine)
        monkeypatch.setattr(module.np, "zeros", refuse)
        with pytest.raises(CapacityError, match="no memory for caches of 2 rows of 64"):
            await engine.open_cache(2, 9)

    asyncio.run(run())


def test_a_single_position_model_passes_its_self_test() -> None:
    values = {field: getattr(CONFIG, field) for field in CONFIG.__slots__}
    config = ModelConfig(**{**values, "max_position_embeddings": 1})

    async def run() -> None:
        engine = NativeEngine(threads=1)
        await fill(engine, config)
        assert engine.backend == "cpu"
        with pytest.raises(CapacityError):
            await engine.open_cache(1, 2)

    asyncio.run(run())


def test_half_precision_differs_by_its_rounding_only() -> None:
    writer = OnnxWriter(CONFIG, BlockRange(0, 1), real="float16")
    weights = weights_of(random_weights(CONFIG, 0))
    hidden = hidden_states(1, 9)

    async def compute(engine: Engine, writer: OnnxWriter) -> Floats:
        for name, tensor in [*writer.constants(), *writer.pack_block(0, weights)]:
            await engine.add_tensor(name, tensor)
        await engine.build(writer.graph(), writer.shape)
        cache = await engine.open_cache(1, 9)
        parts = [await engine.run(cache, hidden[:, :8]), await engine.run(cache, hidden[:, 8:])]
        await engine.close()
        return np.concatenate(parts, axis=1)

    half = asyncio.run(compute(NativeEngine(threads=1), writer))
    whole = asyncio.run(compute(NumpyEngine(), ONE_BLOCK))
    error = np.abs(half - whole).max() / np.abs(whole).max()
    assert 1e-6 < error < 5e-3

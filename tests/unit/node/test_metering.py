"""Rates follow what is served."""

from __future__ import annotations

import numpy as np
import pytest

from kwaainet.errors import EngineError
from kwaainet.inference.writer import span_shape
from kwaainet.node.metering import MeteredEngine
from kwaainet.node.model import load_span
from kwaainet.node.rates import measure
from kwaainet.testing.clock import now, run
from kwaainet.testing.faults import FaultyEngine
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange

SPAN = BlockRange(1, 3)
MANIFEST, FILES = random_model()
TOKEN = np.zeros((1, 1, TINY.hidden_size), np.float32)
PROMPT = np.zeros((1, 32, TINY.hidden_size), np.float32)


async def metered() -> tuple[FaultyEngine, MeteredEngine, int]:
    """An engine measured at half a second a run, then slowed down to one; and a cache on it."""
    engine = FaultyEngine()
    await load_span(MANIFEST, SPAN, MemorySource(FILES), MemoryStore(), engine)
    engine.seconds_per_run = 0.5
    rates = await measure(engine, span_shape(TINY, SPAN), now)
    engine.seconds_per_run = 1.0
    return engine, MeteredEngine(engine, len(SPAN), rates, now), await engine.open_cache(1, 96)


def test_steps_correct_the_rate_of_steps() -> None:
    async def main() -> None:
        _, engine, cache = await metered()
        before = engine.rates
        assert before.inference == pytest.approx(4.0)
        await engine.run_many([(cache, TOKEN)])
        assert engine.rates.inference == pytest.approx(2 / 0.525)
        await engine.run(cache, TOKEN)
        for _ in range(80):
            await engine.run_many([(cache, TOKEN)])
        assert engine.rates.inference == pytest.approx(2.0, rel=0.02)
        assert engine.rates.forward == before.forward

    run(main())


def test_prompts_correct_the_rate_of_prompts() -> None:
    async def main() -> None:
        _, engine, cache = await metered()
        before = engine.rates
        for _ in range(80):
            await engine.truncate(cache, 0)
            await engine.run(cache, PROMPT)
        assert engine.rates.forward == pytest.approx(2 * 32, rel=0.02)
        assert engine.rates.inference == before.inference
        await engine.truncate(cache, 0)
        await engine.run(cache, PROMPT[:, :4])
        assert engine.rates.forward == pytest.approx(2 * 32, rel=0.02), "too short to say anything"

    run(main())


def test_runs_that_fail_count_for_nothing() -> None:
    async def main() -> None:
        inner, engine, cache = await metered()
        before = engine.rates
        inner.failures.append(EngineError("no"))
        with pytest.raises(EngineError):
            await engine.run(cache, TOKEN)
        inner.failures.append(EngineError("no"))
        [result] = await engine.run_many([(cache, TOKEN)])
        assert isinstance(result, EngineError)
        assert engine.rates == before

    run(main())


def test_everything_else_is_the_engines_own() -> None:
    async def main() -> None:
        inner, engine, cache = await metered()
        assert engine.backend == inner.backend
        other = await engine.open_cache(1, 8, BlockRange(0, 1))
        await engine.run(other, TOKEN)
        await engine.reorder(other, [0])
        assert inner.open_caches == {cache, other}
        await engine.close_cache(other)
        assert inner.open_caches == {cache}
        await engine.close()

    run(main())

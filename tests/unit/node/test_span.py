import asyncio

import numpy as np
import pytest

from kwaainet.errors import CapacityError, DeviceLost, EngineError, StreamReset, Unavailable
from kwaainet.node.admission import Admission
from kwaainet.node.model import load_span
from kwaainet.node.pacing import Pace
from kwaainet.node.span import ServedSpan
from kwaainet.testing.clock import run
from kwaainet.testing.faults import FaultyEngine
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange

BLOCKS = BlockRange(0, 2)
MANIFEST, FILES = random_model()


def states(batch: int, tokens: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((batch, tokens, TINY.hidden_size), np.float32)


async def fill(engine: FaultyEngine) -> FaultyEngine:
    await load_span(MANIFEST, BLOCKS, MemorySource(FILES), MemoryStore(), engine)
    engine.runs.clear()
    return engine


async def serving(
    pace: Pace | None = None, **options: int
) -> tuple[ServedSpan, FaultyEngine, list[DeviceLost]]:
    losses: list[DeviceLost] = []
    limits = {"tokens": 200, "max_run_tokens": 16} | options
    span = ServedSpan(Admission(limits["tokens"], 8), limits["max_run_tokens"], losses.append, pace)
    engine = await fill(FaultyEngine())
    span.resume(engine)
    return span, engine, losses


def test_nothing_is_served_before_there_is_an_engine() -> None:
    async def main() -> None:
        span = ServedSpan(Admission(10, 1), 8, lambda error: None)
        with pytest.raises(CapacityError, match="still loading"):
            async with span.open_cache(1, 1, 0.0):
                pass

    run(main())


def test_a_cache_runs_and_is_given_back() -> None:
    async def main() -> None:
        span, engine, _ = await serving()
        async with span.open_cache(2, 10, 0.0) as cache:
            output = await cache.run(states(2, 3))
            assert output.shape == (2, 3, TINY.hidden_size)
            assert span.admission.tokens_left == 180
        assert (span.admission.tokens_left, engine.open_caches, span.tokens_done) == (200, set(), 6)

    run(main())


def test_a_long_run_is_cut_and_computes_the_same() -> None:
    async def main() -> None:
        span, engine, _ = await serving(max_run_tokens=8)
        hidden = states(1, 30)
        async with span.open_cache(1, 30, 0.0) as cache:
            output = await cache.run(hidden)
        assert engine.runs == [(1, 8), (1, 8), (1, 8), (1, 6)]
        whole = await engine.run(await engine.open_cache(1, 30), hidden)
        np.testing.assert_allclose(output, whole, atol=1e-5)

    run(main())


def test_a_long_run_stops_when_nobody_wants_it() -> None:
    async def main() -> None:
        span, engine, _ = await serving(max_run_tokens=8)
        async with span.open_cache(1, 30, 0.0) as cache:
            with pytest.raises(StreamReset):
                await cache.run(states(1, 30), lambda: len(engine.runs) < 2)
        assert len(engine.runs) == 2

    run(main())


def test_a_part_of_the_span_is_run_in_sessions_and_without() -> None:
    async def main() -> None:
        span, engine, _ = await serving()
        hidden, last = states(2, 6), BlockRange(1, 2)
        async with span.open_cache(2, 6, 0.0, BlockRange(0, 1)) as cache:
            half = await cache.run(hidden)
        output = await span.forward(half, 0.0, last)
        whole = await engine.run(await engine.open_cache(2, 6), hidden)
        np.testing.assert_allclose(output, whole, atol=1e-5)
        assert np.abs(half - whole).max() > 0.1

    run(main())


def test_forward_takes_each_row_on_its_own() -> None:
    async def main() -> None:
        span, engine, _ = await serving(max_run_tokens=12, tokens=12)
        hidden = states(5, 6)
        output = await span.forward(hidden, 0.0)
        assert engine.runs == [(2, 6), (2, 6), (1, 6)]
        whole = await engine.run(await engine.open_cache(5, 6), hidden)
        np.testing.assert_allclose(output, whole, atol=1e-5)
        assert span.admission.tokens_left == 12

    run(main())


def test_forward_of_nothing_is_nothing() -> None:
    async def main() -> None:
        span, _, _ = await serving()
        assert (await span.forward(states(3, 0), 0.0)).shape == (3, 0, TINY.hidden_size)

    run(main())


def test_truncate_and_reorder_reach_the_engine() -> None:
    async def main() -> None:
        span, _, _ = await serving()
        hidden = states(2, 4)
        async with span.open_cache(2, 10, 0.0) as cache:
            first = await cache.run(hidden)
            await cache.truncate(2)
            np.testing.assert_allclose(await cache.run(hidden[:, 2:]), first[:, 2:], atol=1e-5)
            step = np.repeat(states(1, 1), 2, axis=0)
            await cache.reorder([1, 1])
            same = await cache.run(step)
            np.testing.assert_allclose(same[0], same[1], atol=1e-6)

    run(main())


def test_a_failing_run_spares_its_neighbours() -> None:
    async def main() -> None:
        span, engine, losses = await serving()
        async with span.open_cache(1, 10, 0.0) as one, span.open_cache(1, 10, 0.0) as other:
            engine.failures.append(EngineError("no memory"))
            with pytest.raises(EngineError, match="no memory"):
                await one.run(states(1, 1))
            await other.run(states(1, 1))
            await one.run(states(1, 1))
        assert losses == []

    run(main())


def test_a_lost_device_ends_every_session_and_is_told_once() -> None:
    async def main() -> None:
        span, engine, losses = await serving()
        told: list[str] = []
        async with span.open_cache(1, 10, 0.0) as one, span.open_cache(1, 10, 0.0) as other:
            other.on_lost = lambda error: told.append(str(error))
            engine.failures.extend([DeviceLost("gone"), DeviceLost("gone")])
            results = await asyncio.gather(
                one.run(states(1, 1)), other.run(states(1, 1)), return_exceptions=True
            )
            assert [type(result) for result in results] == [DeviceLost, DeviceLost]
            assert (len(losses), len(told)) == (1, 1)
            with pytest.raises(CapacityError, match="rebuilding"):
                await span.forward(states(1, 1), 0.0)

            span.resume(await fill(FaultyEngine()))
            for late in (one.run(states(1, 1)), one.truncate(0), one.reorder([0])):
                with pytest.raises(DeviceLost, match="open a new session"):
                    await late
            await span.forward(states(1, 1), 0.0)
        assert span.admission.tokens_left == 200

    run(main())


def test_a_suspended_span_ends_its_sessions_with_the_words_given() -> None:
    async def main() -> None:
        span, _, _ = await serving()
        async with span.open_cache(1, 10, 0.0) as cache:
            running = asyncio.ensure_future(cache.run(states(1, 1)))
            await asyncio.sleep(0)
            span.suspend("it has moved")
            for late in (running, cache.run(states(1, 1)), span.forward(states(1, 1), 0.0)):
                with pytest.raises(Unavailable, match="server unavailable: it has moved"):
                    await late

    run(main())


def test_an_old_session_never_closes_a_cache_of_the_rebuilt_engine() -> None:
    async def main() -> None:
        span, engine, _ = await serving()
        async with span.open_cache(1, 10, 0.0):
            span.suspend("rebuilding")
            await engine.close()
            await fill(engine)
            span.resume(engine)
            handle = await engine.open_cache(1, 10)
        assert engine.open_caches == {handle}

    run(main())


def test_being_cancelled_while_a_cache_opens_leaves_none_behind() -> None:
    async def main() -> None:
        span, engine, _ = await serving()

        async def hold() -> None:
            async with span.open_cache(1, 10, 0.0):
                await asyncio.sleep(100)

        for turns in range(6):
            task = asyncio.ensure_future(hold())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (engine.open_caches, span.admission.tokens_left) == (set(), 200)

    run(main())

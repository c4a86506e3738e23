"""One engine, many sessions: what runs together, what comes between, what fails alone."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from kwaainet.errors import DeviceLost, EngineError, StreamReset
from kwaainet.inference.scheduler import MAX_ROWS
from kwaainet.node.model import load_span
from kwaainet.node.turns import Turns
from kwaainet.testing.clock import now, run
from kwaainet.testing.faults import FaultyEngine
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange, PeerId

MANIFEST, FILES = random_model()
CHUNK = 8


def states(tokens: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, tokens, TINY.hidden_size), np.float32)


class Stage:
    """Turns on an engine that takes a second a run, and sessions on it."""

    def __init__(self, engine: FaultyEngine) -> None:
        self.engine = engine
        self.tokens = 0
        self.losses: list[DeviceLost] = []
        self.turns = Turns(engine, CHUNK, self.count, self.losses.append)

    def count(self, tokens: int) -> None:
        self.tokens += tokens

    async def session(self, length: int = 96) -> int:
        return await self.engine.open_cache(1, length)

    async def step(
        self, cache: int, tokens: int = 1, of: int = 0, wanted: bool = True, seed: int = 7
    ) -> np.ndarray:
        peer = PeerId(bytes([0, 1, of]))
        return await self.turns.run(cache, peer, cache, states(tokens, seed), lambda: wanted)


async def stage(seconds: float = 1.0) -> Stage:
    engine = FaultyEngine()
    await load_span(MANIFEST, BlockRange(0, 2), MemorySource(FILES), MemoryStore(), engine)
    engine.runs.clear()
    engine.rounds.clear()
    engine.seconds_per_run = seconds
    return Stage(engine)


def test_steps_that_wait_run_together_and_compute_what_they_do_alone() -> None:
    async def main() -> None:
        s = await stage()
        caches = [await s.session() for _ in range(5)]
        for cache in caches:
            await s.step(cache, 3 + cache % 2)
        s.engine.rounds.clear()
        found = await asyncio.gather(*(s.step(cache, seed=cache) for cache in caches))
        assert s.engine.rounds == [5]
        for cache, output in zip(caches, found, strict=True):
            alone = await s.session()
            await s.engine.run(alone, states(3 + cache % 2))
            np.testing.assert_allclose(output, await s.engine.run(alone, states(1, cache)), atol=1e-5)
        assert s.tokens == sum(3 + cache % 2 for cache in caches) + 5

    run(main())


def test_what_comes_while_the_engine_computes_goes_into_the_next_round() -> None:
    async def main() -> None:
        s = await stage()
        caches = [await s.session() for _ in range(4)]
        first = asyncio.ensure_future(s.step(caches[0]))
        await asyncio.sleep(0.5)
        await asyncio.gather(first, *(s.step(cache) for cache in caches[1:]))
        assert s.engine.rounds == [1, 3]

    run(main())


def test_many_sessions_in_a_loop_all_get_on_at_one_pace() -> None:
    """More than fit a round; each sends the next step when it has the last."""

    async def main() -> None:
        s = await stage()
        done: dict[int, int] = {}

        async def client(cache: int, of: int) -> None:
            while True:
                await s.step(cache, of=of)
                done[cache] = done.get(cache, 0) + 1
                await asyncio.sleep(0.01)

        caches = [await s.session() for _ in range(MAX_ROWS + 8)]
        tasks = [asyncio.ensure_future(client(cache, cache % 3)) for cache in caches]
        await asyncio.sleep(60)
        for task in tasks:
            task.cancel()
        assert len(done) == len(caches)
        assert max(done.values()) / min(done.values()) <= 1.5

    run(main())


def test_a_long_prompt_does_not_stop_those_who_decode() -> None:
    async def main() -> None:
        s = await stage()
        decoding, prompting = await s.session(), await s.session()
        await s.step(decoding)
        prompt = asyncio.ensure_future(s.step(prompting, 10 * CHUNK, of=1))
        longest = 0.0
        steps = 0
        while not prompt.done():
            started = now()
            await s.step(decoding)
            longest = max(longest, now() - started)
            steps += 1
        assert longest <= 2.01, "a step waits for one chunk and its own round"
        assert 9 <= steps <= 12
        alone = await s.engine.open_cache(1, 96)
        expected = await s.engine.run(alone, states(10 * CHUNK))
        np.testing.assert_allclose(await prompt, expected, atol=1e-5)

    run(main())


def test_an_error_of_one_step_is_its_own() -> None:
    async def main() -> None:
        s = await stage()
        caches = [await s.session(length) for length in (5, 2, 5)]
        for cache in caches:
            await s.step(cache, 2)
        results = await asyncio.gather(*(s.step(cache) for cache in caches), return_exceptions=True)
        assert [isinstance(result, np.ndarray) for result in results] == [True, False, True]
        assert "hold" in str(results[1])
        await s.step(caches[0])

    run(main())


def test_a_failing_call_fails_its_round_and_not_the_next() -> None:
    async def main() -> None:
        s = await stage()
        caches = [await s.session() for _ in range(2)]

        async def broken(steps: object) -> list[object]:
            raise EngineError("no graph")

        s.engine.run_many = broken  # type: ignore[assignment, method-assign]
        results = await asyncio.gather(*(s.step(cache) for cache in caches), return_exceptions=True)
        assert [str(result) for result in results] == ["no graph"] * 2
        assert (await s.step(caches[0], 3)).shape == (1, 3, TINY.hidden_size)

    run(main())


def test_a_step_that_waits_can_be_cancelled_and_never_runs() -> None:
    async def main() -> None:
        s = await stage()
        caches = [await s.session() for _ in range(3)]
        tasks = [asyncio.ensure_future(s.step(cache)) for cache in caches[:1]]
        await asyncio.sleep(0.5)
        tasks += [asyncio.ensure_future(s.step(cache)) for cache in caches[1:]]
        await asyncio.sleep(0.1)
        tasks[1].cancel()
        await asyncio.wait(tasks)
        assert tasks[1].cancelled()
        assert s.engine.rounds == [1, 1]

    run(main())


def test_one_cancelled_while_it_runs_leaves_its_neighbours_alone() -> None:
    async def main() -> None:
        s = await stage()
        caches = [await s.session() for _ in range(2)]
        tasks = [asyncio.ensure_future(s.step(cache)) for cache in caches]
        await asyncio.sleep(0.5)
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert (await tasks[1]).shape == (1, 1, TINY.hidden_size)
        assert s.engine.rounds == [2]

    run(main())


def test_a_prompt_nobody_wants_is_not_run_to_its_end() -> None:
    async def main() -> None:
        s = await stage()
        with pytest.raises(StreamReset):
            await s.step(await s.session(), 5 * CHUNK, wanted=False)
        assert s.engine.runs == [(1, CHUNK)]

    run(main())


def test_a_lost_device_is_told_before_those_who_lose_by_it() -> None:
    async def main() -> None:
        s = await stage()
        caches = [await s.session() for _ in range(2)]
        s.engine.failures.append(DeviceLost("gone"))
        results = await asyncio.gather(*(s.step(cache) for cache in caches), return_exceptions=True)
        assert [type(result) for result in results] == [DeviceLost, DeviceLost]
        assert len(s.losses) == 1

    run(main())


def test_all_can_be_failed_at_once_those_that_run_and_those_that_wait() -> None:
    async def main() -> None:
        s = await stage()
        caches = [await s.session() for _ in range(3)]
        tasks = [asyncio.ensure_future(s.step(cache)) for cache in caches[:2]]
        await asyncio.sleep(0.5)
        tasks.append(asyncio.ensure_future(s.step(caches[2])))
        await asyncio.sleep(0)
        s.turns.fail_all(EngineError("over"))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(result) for result in results] == ["over"] * 3
        await asyncio.sleep(2)
        assert s.engine.rounds == [2]

    run(main())


def test_the_first_back_is_held_for_those_due_and_no_longer_than_that() -> None:
    async def main() -> None:
        s = await stage()
        caches = [await s.session() for _ in range(3)]

        async def client(cache: int) -> None:
            for _ in range(6):
                await s.step(cache)
                await asyncio.sleep(0.01 * caches.index(cache))

        await asyncio.gather(*(client(cache) for cache in caches))
        assert s.engine.rounds.count(3) >= 4
        assert len(s.engine.rounds) <= 9

    run(main())

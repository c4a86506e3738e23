"""The suite refuses engines that break the port: each mutant here fails the check meant for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from kwaainet.errors import KwaaiNetError, LocalError
from kwaainet.ports import Floats, StepResult
from kwaainet.testing import clock
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.engine_compliance import CHECKS, check, check_all
from kwaainet.types import BlockRange


class Blurred(NumpyEngine):
    async def run(self, cache: int, hidden: Floats) -> Floats:
        return await super().run(cache, hidden) * 1.01


class WritesIntoInputs(NumpyEngine):
    async def run(self, cache: int, hidden: Floats) -> Floats:
        result = await super().run(cache, hidden)
        hidden[:, :1] = 0
        return result


class KeepsOrder(NumpyEngine):
    async def reorder(self, cache: int, rows: Sequence[int]) -> None:
        pass


class NeverForgets(NumpyEngine):
    async def truncate(self, cache: int, length: int) -> None:
        if length % 3:
            await super().truncate(cache, length)


class SharedMemory(NumpyEngine):
    """Caches share their keys and values, the last written last."""

    async def run(self, cache: int, hidden: Floats) -> Floats:
        result = await super().run(cache, hidden)
        caches = self._built()
        for handle in range(2, cache):  # 1 was the self-test's
            caches[handle].storage = {k: a[:1] for k, a in caches[cache].storage.items()}
        return result


class Boundless(NumpyEngine):
    async def open_cache(self, batch: int, max_length: int, blocks: BlockRange | None = None) -> int:
        return await super().open_cache(batch, max(max_length, 40), blocks)


class Undivided(NumpyEngine):
    async def open_cache(self, batch: int, max_length: int, blocks: BlockRange | None = None) -> int:
        return await super().open_cache(batch, max_length)


class SkipsTooLittle(NumpyEngine):
    """Takes one more block than asked for."""

    async def open_cache(self, batch: int, max_length: int, blocks: BlockRange | None = None) -> int:
        if blocks is not None:
            blocks = BlockRange(blocks.start, min(blocks.end + 1, 3))
        return await super().open_cache(batch, max_length, blocks)


class Undying(NumpyEngine):
    async def close_cache(self, cache: int) -> None:
        pass


class Forgiving(NumpyEngine):
    async def run(self, cache: int, hidden: Floats) -> Floats:
        return await super().run(cache, hidden.astype("float32"))


class StepsApart(NumpyEngine):
    """Looks only at the first step's cache."""

    async def run_many(self, steps: Sequence[tuple[int, Floats]]) -> list[StepResult]:
        return await super().run_many([(steps[0][0], hidden) for _, hidden in steps])


class OneForAll(NumpyEngine):
    """A bad step fails all."""

    async def run_many(self, steps: Sequence[tuple[int, Floats]]) -> list[StepResult]:
        results = await super().run_many(steps)
        failures = [result for result in results if isinstance(result, LocalError)]
        return [failures[0]] * len(steps) if failures else results


class Careless(NumpyEngine):
    """Steps also touch the positions of every other cache."""

    async def run_many(self, steps: Sequence[tuple[int, Floats]]) -> list[StepResult]:
        for cache in self._built()._caches.values():
            cache.storage = {name: array * np.float32(0.9) for name, array in cache.storage.items()}
        return await super().run_many(steps)


class Whole(NumpyEngine):
    """Steps go through all blocks."""

    async def run_many(self, steps: Sequence[tuple[int, Floats]]) -> list[StepResult]:
        for handle, _ in steps:
            self._built()[handle].blocks = BlockRange(0, 3)
        return await super().run_many(steps)


class Scribbling(NumpyEngine):
    """Writes into its inputs."""

    async def run_many(self, steps: Sequence[tuple[int, Floats]]) -> list[StepResult]:
        results = await super().run_many(steps)
        for _, hidden in steps:
            hidden[:] = 0
        return results


class Mixing(NumpyEngine):
    """Closing a cache disturbs another."""

    async def close_cache(self, cache: int) -> None:
        await super().close_cache(cache)
        for other in list(self._built()._caches.values())[:1]:
            other.storage = {name: array * np.float32(0.9) for name, array in other.storage.items()}


MUTANTS = [
    (StepsApart, "steps_of_many_caches_match_their_own_runs"),
    (Careless, "rows_that_take_no_part_are_not_touched"),
    (Whole, "steps_through_parts_of_the_span_go_beside_those_through_all"),
    (OneForAll, "a_step_that_cannot_run_harms_no_other"),
    (Scribbling, "steps_share_no_memory"),
    (Mixing, "caches_keep_what_they_hold_while_others_come_and_go"),
    (Blurred, "prefill_matches_the_reference"),
    (Blurred, "steps_match_a_prefill"),
    (Blurred, "batches_match_their_rows"),
    (WritesIntoInputs, "arguments_and_results_are_not_shared"),
    (KeepsOrder, "reordering_moves_rows"),
    (NeverForgets, "rolling_back_forgets"),
    (SharedMemory, "caches_do_not_mix"),
    (Undivided, "parts_of_the_span_match_spans_of_their_own"),
    (Undivided, "parts_of_the_span_join"),
    (Undivided, "parts_that_are_not_there_are_refused"),
    (SkipsTooLittle, "parts_of_the_span_match_spans_of_their_own"),
    (SkipsTooLittle, "parts_of_the_span_join"),
    (Boundless, "limits_are_held"),
    (Undying, "closed_caches_are_gone"),
    (Forgiving, "misuse_is_refused"),
]


@pytest.mark.parametrize(("mutant", "name"), MUTANTS)
def test_mutants_are_refused(mutant: type[NumpyEngine], name: str) -> None:
    with pytest.raises((AssertionError, KwaaiNetError)):
        clock.run(check(name, mutant))


def test_one_engine_can_go_through_all_checks() -> None:
    assert clock.run(check_all(NumpyEngine)) == len(CHECKS)

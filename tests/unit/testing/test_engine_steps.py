"""The suite refuses engines that batch steps wrongly: each mutant here fails the check meant for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from kwaainet.errors import KwaaiNetError, LocalError
from kwaainet.ports import Floats, StepResult
from kwaainet.testing import clock
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.engine_compliance import check
from kwaainet.types import BlockRange


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
]


@pytest.mark.parametrize(("mutant", "name"), MUTANTS)
def test_mutants_are_refused(mutant: type[NumpyEngine], name: str) -> None:
    with pytest.raises((AssertionError, KwaaiNetError)):
        clock.run(check(name, mutant))

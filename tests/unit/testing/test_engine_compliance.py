"""The suite refuses engines that break the port: each mutant here fails the check meant for it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kwaainet.errors import KwaaiNetError
from kwaainet.ports import Floats
from kwaainet.testing import clock
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.engine_compliance import check
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
        for handle in range(3, cache):  # 1 and 2 were the self-test's
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


MUTANTS = [
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

"""An engine that computes rightly, slowly, and fails when told to.

Rule of the file: what is told to fail fails once, and what a real engine would lose is lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from ..errors import DeviceLost, EngineError
from ..ports import Floats, StepResult
from ..types import BlockRange, SpanShape
from .engine import NumpyEngine


class FaultyEngine(NumpyEngine):
    """``seconds_per_run`` pass on each run; ``failures`` are raised by the next runs, in order, and
    ``build_failures`` by the next builds. A ``DeviceLost`` takes every cache and the graph with it.
    """

    def __init__(self, seconds_per_run: float = 0.0) -> None:
        super().__init__()
        self.seconds_per_run = seconds_per_run
        self.failures: deque[EngineError] = deque()
        self.build_failures: deque[EngineError] = deque()
        self.runs: list[tuple[int, int]] = []  # (batch, tokens) of each, steps that ran together too
        self.rounds: list[int] = []  # steps of each call of run_many
        self.builds = 0
        self.open_caches: set[int] = set()
        self._queue = asyncio.Lock()

    async def build(self, graph: bytes, shape: SpanShape) -> None:
        """See ``ports.Engine``."""
        if self.build_failures:
            self._tensors = {}
            raise self.build_failures.popleft()
        await super().build(graph, shape)
        self.builds += 1

    async def open_cache(self, batch: int, max_length: int, blocks: BlockRange | None = None) -> int:
        """See ``ports.Engine``."""
        await asyncio.sleep(0)
        handle = await super().open_cache(batch, max_length, blocks)
        self.open_caches.add(handle)
        return handle

    async def run(self, cache: int, hidden: Floats) -> Floats:
        """See ``ports.Engine``."""
        async with self._queue:
            await asyncio.sleep(self.seconds_per_run)
            await self._fail()
            self.runs.append((hidden.shape[0], hidden.shape[1]))
            return await super().run(cache, hidden)

    async def run_many(self, steps: Sequence[tuple[int, Floats]]) -> list[StepResult]:
        """See ``ports.Engine``; takes as long as a run. A failure is that of the first step."""
        async with self._queue:
            await asyncio.sleep(self.seconds_per_run)
            self.rounds.append(len(steps))
            failed: list[StepResult] = []
            try:
                await self._fail()
            except DeviceLost:
                raise
            except EngineError as error:
                failed.append(error)
            self.runs += [(hidden.shape[0], 1) for _, hidden in steps[len(failed) :]]
            return failed + await super().run_many(steps[len(failed) :])

    async def _fail(self) -> None:
        if self.failures:
            failure = self.failures.popleft()
            if isinstance(failure, DeviceLost):
                await self.close()
            raise failure

    async def close_cache(self, cache: int) -> None:
        """See ``ports.Engine``."""
        self.open_caches.discard(cache)
        await super().close_cache(cache)

    async def close(self) -> None:
        """See ``ports.Engine``."""
        self.open_caches.clear()
        await super().close()

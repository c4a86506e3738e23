"""An engine whose rates are corrected by what it serves.

Rates timed once, on an idle machine, are not those of a busy or throttled one an hour later. Rule of
the file: it passes everything on as it is and only looks at the clock; runs that fail count for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ports import Clock, Engine, Floats, StepResult
from ..types import BlockRange, SpanShape
from .rates import Rates

SMOOTHING = 0.05  # share of the newest run: some twenty make most of the figure
MIN_PROMPT = 16  # positions of a run that says something of ``forward``: shorter ones are mostly overhead
_SHORTEST = 1e-6  # seconds


class MeteredEngine:
    """``Engine`` around another of ``blocks`` blocks; calls must come one at a time, as ``Turns`` makes them.

    ``rates`` are those given, smoothed exponentially towards what is served: ``inference`` counts
    steps (whoever shares one waits as long as if alone), ``forward`` the positions of longer runs.
    """

    def __init__(self, engine: Engine, blocks: int, rates: Rates, now: Clock) -> None:
        self._engine, self._blocks, self._now = engine, blocks, now
        self._step = blocks / rates.inference  # seconds
        self._position = blocks / rates.forward  # seconds of one position of a longer run

    @property
    def rates(self) -> Rates:
        """As of now, in tokens a second through one block."""
        return Rates(self._blocks / self._step, self._blocks / self._position)

    async def run(self, cache: int, hidden: Floats) -> Floats:
        """See ``ports.Engine``."""
        started = self._now()
        output = await self._engine.run(cache, hidden)
        seconds = max(self._now() - started, _SHORTEST)
        if hidden.shape[1] == 1:
            self._step = _smooth(self._step, seconds)
        elif hidden.shape[1] >= MIN_PROMPT:
            self._position = _smooth(self._position, seconds / (hidden.shape[0] * hidden.shape[1]))
        return output

    async def run_many(self, steps: Sequence[tuple[int, Floats]]) -> list[StepResult]:
        """See ``ports.Engine``."""
        started = self._now()
        results = await self._engine.run_many(steps)
        if results and all(isinstance(result, np.ndarray) for result in results):
            self._step = _smooth(self._step, max(self._now() - started, _SHORTEST))
        return results

    # --- passed on --------------------------------------------------------------------------------

    @property
    def backend(self) -> str:
        """See ``ports.Engine``."""
        return self._engine.backend

    @property
    def half(self) -> bool:
        """See ``ports.Engine``."""
        return self._engine.half

    @property
    def graphs(self) -> str:
        """See ``ports.Engine``."""
        return self._engine.graphs

    async def add_tensor(self, name: str, array: NDArray[Any]) -> None:
        """See ``ports.Engine``."""
        await self._engine.add_tensor(name, array)

    async def build(self, graph: bytes, shape: SpanShape) -> None:
        """See ``ports.Engine``."""
        await self._engine.build(graph, shape)

    async def open_cache(self, batch: int, max_length: int, blocks: BlockRange | None = None) -> int:
        """See ``ports.Engine``."""
        return await self._engine.open_cache(batch, max_length, blocks)

    async def truncate(self, cache: int, length: int) -> None:
        """See ``ports.Engine``."""
        await self._engine.truncate(cache, length)

    async def reorder(self, cache: int, rows: Sequence[int]) -> None:
        """See ``ports.Engine``."""
        await self._engine.reorder(cache, rows)

    async def close_cache(self, cache: int) -> None:
        """See ``ports.Engine``."""
        await self._engine.close_cache(cache)

    async def close(self) -> None:
        """See ``ports.Engine``."""
        await self._engine.close()


def _smooth(before: float, newest: float) -> float:
    return SMOOTHING * newest + (1 - SMOOTHING) * before

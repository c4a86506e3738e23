"""The self-test passes right engines and names what is wrong with others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from kwaainet.errors import EngineError
from kwaainet.inference.selftest import TOLERANCE, check_close, sample, self_test
from kwaainet.inference.writer import span_shape
from kwaainet.ports import Floats, StepResult
from kwaainet.testing import clock
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.engine_compliance import CONFIG, fill
from kwaainet.types import BlockRange

SHAPE = span_shape(CONFIG, BlockRange(0, CONFIG.num_hidden_layers))


class ForgetfulEngine(NumpyEngine):
    """Steps see nothing of what came before."""

    async def truncate(self, cache: int, length: int) -> None:
        await super().truncate(cache, 0)


class SilentEngine(NumpyEngine):
    async def run(self, cache: int, hidden: Floats) -> Floats:
        return np.full_like(await super().run(cache, hidden), np.nan)


class MixingEngine(NumpyEngine):
    """Steps get each other's results."""

    async def run_many(self, steps: Sequence[tuple[int, Floats]]) -> list[StepResult]:
        results = await super().run_many(steps)
        return results[::-1]


class FailingEngine(NumpyEngine):
    async def run_many(self, steps: Sequence[tuple[int, Floats]]) -> list[StepResult]:
        return [EngineError("self-test failed: no such kernel")] * len(steps)


def test_a_right_engine_passes_and_keeps_nothing_open() -> None:
    async def run() -> None:
        engine = NumpyEngine()
        await fill(engine)
        before = await engine.open_cache(1, 1)
        await self_test(engine, SHAPE)
        with pytest.raises(EngineError):
            await engine.truncate(before + 1, 0)

    clock.run(run())


@pytest.mark.parametrize("kind", [ForgetfulEngine, SilentEngine, MixingEngine, FailingEngine])
def test_a_wrong_engine_is_refused(kind: Any) -> None:
    with pytest.raises(EngineError, match="self-test failed"):
        clock.run(fill(kind()))


def test_closeness_is_relative_to_the_largest_value() -> None:
    large = np.array([1000.0, 0.0], np.float32)
    check_close("x", large + np.float32(0.9 * TOLERANCE * 1000), large)
    with pytest.raises(EngineError, match="x is off by"):
        check_close("x", large + np.float32(1.1 * TOLERANCE * 1000), large)


def test_samples_are_fixed_and_lively() -> None:
    hidden = sample(4, 10)
    assert hidden.shape == (1, 4, 10)
    assert hidden.dtype == np.float32
    assert np.array_equal(hidden, sample(4, 10))
    assert hidden.std() > 0.5

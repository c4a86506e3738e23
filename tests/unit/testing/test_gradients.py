"""The reference against differences of its own outputs, and against the engine that serves."""

import numpy as np
import pytest

from kwaainet.formats.config import ModelConfig
from kwaainet.formats.weights import weights_of
from kwaainet.inference.graph import OnnxWriter
from kwaainet.inference.llama_gradients import tables
from kwaainet.testing.clock import run
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.gradients import NumpyGradients, _Block
from kwaainet.testing.gradients_compliance import SHAPES, difference, states, weights
from kwaainet.types import BlockRange

STEP = 1e-5


@pytest.mark.parametrize("config", SHAPES.values(), ids=list(SHAPES))
def test_the_gradient_is_what_small_steps_show(config: ModelConfig) -> None:
    at, given = tables(config, 5), {name: np.float64(array) for name, array in weights(config, 3).items()}
    x, dy = np.float64(states(config, 2, 5)), np.float64(states(config, 2, 5, 2))
    got = _Block(config, given, at, x).back(dy)
    for seed in range(20):
        direction = np.float64(states(config, 2, 5, 10 + seed))
        ahead, behind = (_Block(config, given, at, x + sign * STEP * direction).y for sign in (1, -1))
        slope = ((ahead - behind) * dy).sum() / (2 * STEP)
        assert slope == pytest.approx((got * direction).sum(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("config", SHAPES.values(), ids=list(SHAPES))
def test_the_output_is_that_of_the_engine(config: ModelConfig) -> None:
    async def main() -> None:
        block, engine = weights(config, 3), NumpyEngine()
        writer = OnnxWriter(config, BlockRange(0, 1))
        for name, array in [*writer.constants(), *writer.pack_block(0, weights_of(block))]:
            await engine.add_tensor(name, array)
        await engine.build(writer.graph(), writer.shape)
        ours = NumpyGradients(config)
        await ours.build(b"", b"")
        await ours.add_block(0, block)
        x = states(config, 2, 7)
        cache = await engine.open_cache(2, 7)
        expected = await engine.run(cache, x)
        assert difference(await ours.forward(0, x, tables(config, 7)), expected) < 1e-5

    run(main())

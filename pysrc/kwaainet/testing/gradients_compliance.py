"""The Gradients port's contract as checks any adapter can be held to: ``await check(name, make)``.

Rule of the file: every number is held against ``testing.gradients``, which shares no code with the
graphs; shapes are small and odd, so that a mixed-up axis shows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import numpy as np

from ..errors import EngineError
from ..formats.config import ModelConfig
from ..inference.llama_gradients import backward_graph, forward_graph, tables
from ..ports import Floats, Gradients
from .gradients import NumpyGradients
from .model import TINY

Make = Callable[[ModelConfig], Gradients]
TOLERANCE = 1e-5  # of the largest value

SHAPES = {
    "grouped": TINY,
    "one_head_each": replace(TINY, num_key_value_heads=6),
    "one_key_for_all": replace(TINY, num_key_value_heads=1, intermediate_size=7),
    "wide_heads": replace(TINY, head_dim=10, num_attention_heads=4),
}


def weights(config: ModelConfig, seed: int) -> dict[str, Floats]:
    """Random ones, scaled so that a block neither fades nor explodes."""
    random = np.random.default_rng(seed)
    found = {}
    for name, shape in config.block_shapes().items():
        values = random.standard_normal(shape)
        values = 1 + values / 5 if len(shape) == 1 else values / shape[1] ** 0.5
        found[name] = np.asarray(values, np.float32)
    return found


def states(config: ModelConfig, batch: int, tokens: int, seed: int = 1) -> Floats:
    """Random hidden states or gradients."""
    random = np.random.default_rng(seed)
    return random.standard_normal((batch, tokens, config.hidden_size), np.float32)


def difference(got: Floats, expected: Floats) -> float:
    """The largest, as a part of the largest value; infinite if the shapes differ."""
    if got.shape != expected.shape or got.dtype != np.float32:
        return float("inf")
    return float(np.abs(got - expected).max() / np.abs(expected).max())


async def _built(make: Make, config: ModelConfig, blocks: int = 1) -> tuple[Gradients, NumpyGradients]:
    """The adapter and the reference, with the same weights."""
    ours, reference = make(config), NumpyGradients(config)
    for one in (ours, reference):
        await one.build(forward_graph(config), backward_graph(config))
        for block in range(blocks):
            await one.add_block(block, weights(config, block))
    return ours, reference


async def _compare(
    ours: Gradients, reference: Gradients, config: ModelConfig, batch: int, tokens: int
) -> None:
    x, dy, at = states(config, batch, tokens), states(config, batch, tokens, 2), tables(config, tokens)
    forward = [await one.forward(0, x, at) for one in (ours, reference)]
    backward = [await one.backward(0, x, dy, at) for one in (ours, reference)]
    for got, expected in (forward, backward):
        assert difference(got, expected) < TOLERANCE, (batch, tokens, difference(got, expected))


def _agrees(config: ModelConfig) -> Callable[[Make], Awaitable[None]]:
    async def agrees(make: Make) -> None:
        ours, reference = await _built(make, config)
        for batch, tokens in ((1, 1), (2, 7), (3, 2), (1, 40)):
            await _compare(ours, reference, config, batch, tokens)
        await ours.close()

    return agrees


async def _blocks_are_told_apart(make: Make) -> None:
    ours, reference = await _built(make, TINY, blocks=3)
    x, at = states(TINY, 2, 5), tables(TINY, 5)
    outputs = [await ours.forward(block, x, at) for block in (2, 0, 1, 2)]
    for block, output in zip((2, 0, 1, 2), outputs, strict=True):
        assert difference(output, await reference.forward(block, x, at)) < TOLERANCE
    assert np.array_equal(outputs[0], outputs[3]), "block 2 gives another output after others"
    await ours.close()


async def _what_is_given_stays_as_it_was(make: Make) -> None:
    ours, _ = await _built(make, TINY)
    x, dy, at = states(TINY, 2, 5), states(TINY, 2, 5, 2), tables(TINY, 5)
    inputs: Mapping[str, Floats] = {"x": x, "dy": dy, **at}
    before = {name: array.copy() for name, array in inputs.items()}
    await ours.forward(0, x, at)
    await ours.backward(0, x, dy, at)
    for name, array in inputs.items():
        assert np.array_equal(array, before[name]), f"{name} was written to"
    await ours.close()


async def _weights_can_be_replaced_and_dropped(make: Make) -> None:
    ours, _ = await _built(make, TINY)
    x, at = states(TINY, 1, 4), tables(TINY, 4)
    first = await ours.forward(0, x, at)
    await ours.add_block(0, weights(TINY, 9))
    assert difference(await ours.forward(0, x, at), first) > 0.01
    await ours.drop_block(0)
    await ours.drop_block(7)
    await _refused(ours, x, at)
    await ours.close()


async def _closing_forgets_and_it_can_be_built_again(make: Make) -> None:
    ours, reference = await _built(make, TINY)
    await ours.close()
    await _refused(ours, states(TINY, 1, 4), tables(TINY, 4))
    await ours.build(forward_graph(TINY), backward_graph(TINY))
    await ours.add_block(0, weights(TINY, 0))
    await _compare(ours, reference, TINY, 2, 5)
    await ours.close()
    await ours.close()


async def _refused(ours: Gradients, x: Floats, at: Mapping[str, Floats]) -> None:
    try:
        await ours.forward(0, x, at)
    except EngineError:
        return
    raise AssertionError("a block without weights was run")


CHECKS: dict[str, Callable[[Make], Awaitable[None]]] = {
    **{f"agrees_{name}": _agrees(config) for name, config in SHAPES.items()},
    "blocks_are_told_apart": _blocks_are_told_apart,
    "what_is_given_stays_as_it_was": _what_is_given_stays_as_it_was,
    "weights_can_be_replaced_and_dropped": _weights_can_be_replaced_and_dropped,
    "closing_forgets_and_it_can_be_built_again": _closing_forgets_and_it_can_be_built_again,
}


async def check(name: str, make: Make) -> None:
    """Run one check on adapters that ``make`` makes for a model of the shape it is given."""
    await CHECKS[name](make)

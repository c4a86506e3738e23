"""What every adapter of the Engine port must do, as async checks to run against it.

Rule of the file: each check gets a built engine and a reference of the same span (another engine),
and raises ``AssertionError`` with what differed. ``CHECKS`` lists them by name, one test each:

    @pytest.mark.parametrize("name", CHECKS)
    def test_port(name): asyncio.run(check(name, MyEngine))
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import numpy as np

from ..errors import CapacityError, EngineError
from ..formats.weights import Weight, weights_of
from ..inference.cache import MAX_TOKENS
from ..inference.graph import OnnxWriter
from ..inference.matrices import Form
from ..inference.program import ProgramWriter
from ..inference.writer import SpanWriter
from ..inference.writers import writer_for
from ..ports import Engine, Floats
from ..types import BlockRange
from . import engine_steps
from .engine import NumpyEngine
from .span import CONFIG as CONFIG
from .span import QUANTIZED, assert_close, in_steps, outputs_of, refused, stored
from .span import fill as fill
from .span import hidden_states as hidden_states
from .span import random_weights as random_weights

Check: TypeAlias = Callable[[Engine, Engine], Awaitable[None]]


async def check(name: str, make: Callable[[], Engine]) -> None:
    """Run one of ``CHECKS`` on a fresh engine against the numpy reference."""
    engine = await fill(make())
    try:
        await CHECKS[name](engine, await fill(NumpyEngine()))
    finally:
        await engine.close()


async def prefill_matches_the_reference(engine: Engine, reference: Engine) -> None:
    """One position, a few, and 32 or more (where some GPUs take another way) at once."""
    for tokens in (1, 5, 40):
        hidden = hidden_states(1, tokens)
        cache = await engine.open_cache(1, tokens + 3)
        assert_close(await engine.run(cache, hidden), await outputs_of(reference, hidden))


async def steps_match_a_prefill(engine: Engine, reference: Engine) -> None:
    hidden = hidden_states(1, 12)
    cache = await engine.open_cache(1, 12)
    assert_close(await in_steps(engine, cache, hidden, 0), await outputs_of(reference, hidden))


async def chunks_match_a_prefill(engine: Engine, reference: Engine) -> None:
    hidden = hidden_states(1, 77)
    cache = await engine.open_cache(1, 128)
    found = await in_steps(engine, cache, hidden, 7, 33, 1, 36)
    assert_close(found, await outputs_of(reference, hidden))


async def long_runs_match_the_reference(engine: Engine, reference: Engine) -> None:
    """Longer than one piece, onto a cache that already holds something, and on several rows."""
    hidden = hidden_states(2, MAX_TOKENS + 7)
    cache = await engine.open_cache(2, MAX_TOKENS + 10)
    found = await in_steps(engine, cache, hidden, 3, MAX_TOKENS + 3, 1)
    assert_close(found, await outputs_of(reference, hidden))


async def batches_match_their_rows(engine: Engine, reference: Engine) -> None:
    hidden = hidden_states(3, 11)
    cache = await engine.open_cache(3, 16)
    assert_close(await in_steps(engine, cache, hidden, 4, 5, 1, 1), await outputs_of(reference, hidden))


async def no_positions_change_nothing(engine: Engine, reference: Engine) -> None:
    hidden = hidden_states(2, 4)
    cache = await engine.open_cache(2, 4)
    empty = np.zeros((2, 0, CONFIG.hidden_size), np.float32)
    assert_close(await engine.run(cache, empty), empty)
    first = await engine.run(cache, hidden[:, :3])
    assert_close(await engine.run(cache, empty), empty)
    last = await engine.run(cache, hidden[:, 3:])
    assert_close(np.concatenate([first, last], axis=1), await outputs_of(reference, hidden))


async def arguments_and_results_are_not_shared(engine: Engine, reference: Engine) -> None:
    """Neither a run's input nor an earlier result changes under its owner."""
    hidden = hidden_states(1, 4)
    given = hidden.copy()
    cache = await engine.open_cache(1, 8)
    first = await engine.run(cache, given)
    kept = first.copy()
    await engine.run(cache, given)
    assert np.array_equal(given, hidden), "a run wrote into its input"
    assert np.array_equal(first, kept), "a run wrote into an earlier result"


async def rolling_back_forgets(engine: Engine, reference: Engine) -> None:
    kept, dropped, after = hidden_states(2, 6), hidden_states(2, 5, seed=2), hidden_states(2, 4, seed=3)
    cache = await engine.open_cache(2, 12)
    await in_steps(engine, cache, np.concatenate([kept, dropped], axis=1), 6, 5)
    await engine.truncate(cache, 6)
    found = await engine.run(cache, after)
    expected = await outputs_of(reference, np.concatenate([kept, after], axis=1))
    assert_close(found, expected[:, 6:])
    await engine.truncate(cache, 0)
    assert_close(await engine.run(cache, dropped), await outputs_of(reference, dropped))


async def reordering_moves_rows(engine: Engine, reference: Engine) -> None:
    hidden, after = hidden_states(3, 5), hidden_states(3, 2, seed=2)
    rows = [2, 0, 2]
    cache = await engine.open_cache(3, 8)
    await engine.run(cache, hidden)
    await engine.reorder(cache, rows)
    found = await in_steps(engine, cache, after, 0)
    expected = await outputs_of(reference, np.concatenate([hidden[rows], after], axis=1))
    assert_close(found, expected[:, 5:])


async def caches_do_not_mix(engine: Engine, reference: Engine) -> None:
    one, other = hidden_states(1, 9), hidden_states(2, 9, seed=2)
    first, second = await engine.open_cache(1, 9), await engine.open_cache(2, 20)
    found: tuple[list[Floats], list[Floats]] = ([], [])
    for start, end in ((0, 4), (4, 5), (5, 9)):
        found[0].append(await engine.run(first, one[:, start:end]))
        found[1].append(await engine.run(second, other[:, start:end]))
    assert_close(np.concatenate(found[0], axis=1), await outputs_of(reference, one))
    assert_close(np.concatenate(found[1], axis=1), await outputs_of(reference, other))


async def parts_of_the_span_match_spans_of_their_own(engine: Engine, reference: Engine) -> None:
    """At once, in chunks and steps, on several rows, rolled back and reordered."""
    hidden, after, rows = hidden_states(2, 45), hidden_states(2, 4, seed=2), [1, 0]
    for blocks in (BlockRange(0, 1), BlockRange(1, 2), BlockRange(1, 3)):
        own = await fill(NumpyEngine(), only=blocks)
        cache = await engine.open_cache(2, 50, blocks)
        assert_close(await in_steps(engine, cache, hidden, 40, 3, 1, 1), await outputs_of(own, hidden))
        await engine.truncate(cache, 5)
        await engine.reorder(cache, rows)
        expected = await outputs_of(own, np.concatenate([hidden[rows, :5], after], axis=1))
        assert_close(await in_steps(engine, cache, after, 2, 0), expected[:, 5:])
        await engine.close_cache(cache)


async def parts_of_the_span_join(engine: Engine, reference: Engine) -> None:
    """Parts that follow each other are the whole, however their runs take turns with its own."""
    hidden = hidden_states(1, 9)
    whole = await engine.open_cache(1, 9)
    parts = [await engine.open_cache(1, 9, BlockRange(*part)) for part in ((0, 1), (1, 3))]
    found: tuple[list[Floats], list[Floats]] = ([], [])
    for start, end in ((0, 6), (6, 7), (7, 9)):
        states = hidden[:, start:end]
        found[0].append(await engine.run(whole, states))
        for cache in parts:
            states = await engine.run(cache, states)
        found[1].append(states)
    expected = await outputs_of(reference, hidden)
    for outputs in found:
        assert_close(np.concatenate(outputs, axis=1), expected)


async def parts_that_are_not_there_are_refused(engine: Engine, reference: Engine) -> None:
    for blocks in (BlockRange(0, 4), BlockRange(2, 5), BlockRange(3, 4)):
        await refused(EngineError, engine.open_cache(1, 5, blocks))


async def limits_are_held(engine: Engine, reference: Engine) -> None:
    """What does not fit is refused and leaves the cache as it was."""
    hidden = hidden_states(1, 5)
    cache = await engine.open_cache(1, 5)
    await engine.run(cache, hidden[:, :3])
    await refused(CapacityError, engine.run(cache, hidden[:, :3]))
    await refused(CapacityError, engine.open_cache(1, CONFIG.max_position_embeddings + 1))
    await refused(CapacityError, engine.open_cache(0, 5))
    expected = await outputs_of(reference, hidden)
    assert_close(await engine.run(cache, hidden[:, 3:]), expected[:, 3:])


async def misuse_is_refused(engine: Engine, reference: Engine) -> None:
    cache = await engine.open_cache(2, 8)
    for wrong in (hidden_states(1, 2), hidden_states(2, 2)[..., :-1], hidden_states(2, 2)[0]):
        await refused(EngineError, engine.run(cache, wrong))
    await refused(EngineError, engine.run(cache, hidden_states(2, 2).astype(np.float64)))
    await refused(EngineError, engine.truncate(cache, 1))
    await refused(EngineError, engine.truncate(cache, -1))
    await refused(EngineError, engine.reorder(cache, [0]))
    await refused(EngineError, engine.reorder(cache, [0, 2]))


async def closed_caches_are_gone(engine: Engine, reference: Engine) -> None:
    cache = await engine.open_cache(1, 4)
    await engine.close_cache(cache)
    await engine.close_cache(cache)
    await refused(EngineError, engine.run(cache, hidden_states(1, 1)))
    await refused(EngineError, engine.truncate(cache, 0))


async def a_closed_engine_can_be_filled_again(engine: Engine, reference: Engine) -> None:
    hidden = hidden_states(1, 3)
    await engine.close()
    await refused(EngineError, engine.open_cache(1, 3))
    await fill(engine)
    cache = await engine.open_cache(1, 3)
    assert_close(await engine.run(cache, hidden), await outputs_of(reference, hidden))


async def missing_tensors_are_refused(engine: Engine, reference: Engine) -> None:
    await engine.close()
    writer = writer_for(engine.graphs, CONFIG, BlockRange(0, 2))
    for name, table in writer.constants():
        await engine.add_tensor(name, table)
    await refused(EngineError, engine.build(writer.graph(), writer.shape))


async def missing_norms_are_refused(engine: Engine, reference: Engine) -> None:
    """These are inputs of the graph and no initializers: nobody but the engine misses them."""
    await engine.close()
    writer = writer_for(engine.graphs, CONFIG, BlockRange(0, 1))
    for name, tensor in [*writer.constants(), *writer.pack_block(0, weights_of(random_weights(CONFIG, 0)))]:
        if name not in ("0.post_norm", "0.post_attention_layernorm.weight"):
            await engine.add_tensor(name, tensor)
    await refused(EngineError, engine.build(writer.graph(), writer.shape))


async def broken_weights_are_refused(engine: Engine, reference: Engine) -> None:
    await engine.close()
    weights = random_weights(CONFIG, 0)
    weights["mlp.down_proj.weight"][3, 3] = np.nan
    writer = writer_for(engine.graphs, CONFIG, BlockRange(0, 1))
    for name, tensor in [*writer.constants(), *writer.pack_block(0, weights_of(weights))]:
        await engine.add_tensor(name, tensor)
    await refused(EngineError, engine.build(writer.graph(), writer.shape))


async def quantized_weights_compute_what_their_numbers_do(engine: Engine, reference: Engine) -> None:
    """Blocks of every kind that is repacked, side by side and alone, and a graph that has all of them."""
    await engine.close()
    numbers = random_weights(QUANTIZED, 0)
    types = {"k_proj": "Q4_1", "o_proj": "Q8_0", "down_proj": "F16"}
    weights = {
        suffix: stored(types.get(suffix.split(".")[1], "Q4_0"), array)
        if array.ndim == 2
        else Weight.of(array)
        for suffix, array in numbers.items()
    }
    blocks, exact = BlockRange(0, 1), NumpyEngine()
    forms = {"0.qkv": Form.Q4_WITH_ZEROS, "0.o": Form.Q8, "0.gate_up": Form.Q4}
    kept: SpanWriter = OnnxWriter(QUANTIZED, blocks, forms)
    if engine.graphs == "program":
        kept = ProgramWriter(QUANTIZED, blocks)
    for built, writer in ((engine, kept), (exact, OnnxWriter(QUANTIZED, blocks))):
        for name, tensor in [*writer.constants(), *writer.pack_block(0, weights)]:
            await built.add_tensor(name, tensor)
        await built.build(writer.graph(), writer.shape)
    hidden = np.random.default_rng(1).standard_normal((1, 36, QUANTIZED.hidden_size), np.float32)
    cache = await engine.open_cache(1, 36)
    assert_close(await in_steps(engine, cache, hidden, 33, 0), await outputs_of(exact, hidden))


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        prefill_matches_the_reference,
        steps_match_a_prefill,
        chunks_match_a_prefill,
        long_runs_match_the_reference,
        batches_match_their_rows,
        no_positions_change_nothing,
        arguments_and_results_are_not_shared,
        rolling_back_forgets,
        reordering_moves_rows,
        caches_do_not_mix,
        parts_of_the_span_match_spans_of_their_own,
        parts_of_the_span_join,
        parts_that_are_not_there_are_refused,
        *engine_steps.CHECKS,
        limits_are_held,
        misuse_is_refused,
        closed_caches_are_gone,
        a_closed_engine_can_be_filled_again,
        missing_tensors_are_refused,
        missing_norms_are_refused,
        broken_weights_are_refused,
        quantized_weights_compute_what_their_numbers_do,
    )
}

# For a device on which every run is slow: what its own half can get wrong. Pieces, limits, refusals and which
# rows of which slab belong to whom are decided above it, in code that all backends of an adapter share.
DEVICE_CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        prefill_matches_the_reference,
        chunks_match_a_prefill,
        batches_match_their_rows,
        arguments_and_results_are_not_shared,
        rolling_back_forgets,
        reordering_moves_rows,
        parts_of_the_span_join,
        engine_steps.steps_of_many_caches_match_their_own_runs,
        a_closed_engine_can_be_filled_again,
        missing_tensors_are_refused,
        missing_norms_are_refused,
        broken_weights_are_refused,
        quantized_weights_compute_what_their_numbers_do,
    )
}

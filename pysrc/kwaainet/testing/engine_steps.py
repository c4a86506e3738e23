"""What every adapter of the Engine port must do with decode steps of several caches at once.

Part of ``engine_compliance``; rule of the file as there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import CapacityError, EngineError
from ..ports import Engine, Floats
from ..types import BlockRange
from .engine import NumpyEngine
from .span import assert_close, fill, hidden_states, outputs_of


async def _stepped(engine: Engine, steps: Sequence[tuple[int, Floats]]) -> list[Floats]:
    """Steps of which none fails."""
    results = await engine.run_many(steps)
    failures = [result for result in results if not isinstance(result, np.ndarray)]
    assert not failures, f"a sound step failed: {failures[0]!r}"
    return [result for result in results if isinstance(result, np.ndarray)]


async def steps_of_many_caches_match_their_own_runs(engine: Engine, reference: Engine) -> None:
    """Batches, lengths and sizes differ; some take no part in some rounds."""
    sizes = [(1, 9, 12), (2, 3, 12), (1, 1, 15), (3, 6, 100), (1, 0, 70), (1, 11, 14), (1, 5, 16)]
    caches, hidden, found = [], [], []
    for index, (batch, before, room) in enumerate(sizes):
        caches.append(await engine.open_cache(batch, room))
        hidden.append(hidden_states(batch, before + 3, seed=index))
        found.append([await engine.run(caches[-1], hidden[-1][:, :before])])
    for absent in ({1, 4}, set(), {0, 2, 5}):
        taking = [index for index in range(len(sizes)) if index not in absent]
        at = {index: sum(part.shape[1] for part in found[index]) for index in taking}
        steps = [(caches[index], hidden[index][:, at[index] : at[index] + 1]) for index in taking]
        for index, result in zip(taking, await _stepped(engine, steps), strict=True):
            found[index].append(result)
    for index, parts in enumerate(found):
        joined = np.concatenate(parts, axis=1)
        assert_close(joined, await outputs_of(reference, hidden[index][:, : joined.shape[1]]))
        await engine.close_cache(caches[index])


async def rows_that_take_no_part_are_not_touched(engine: Engine, reference: Engine) -> None:
    """Full caches, empty ones, rolled back ones and rows of closed caches lie between those that step."""
    hidden = [hidden_states(1, 64, seed=seed) for seed in range(6)]
    caches = [await engine.open_cache(1, 64) for _ in hidden]
    before = [10, 64, 10, 0, 20, 10]
    for cache, states, length in zip(caches, hidden, before, strict=True):
        await engine.run(cache, states[:, :length])
    await engine.truncate(caches[4], 12)
    await engine.close_cache(caches[2])
    for at in range(10, 14):
        steps = [(caches[index], hidden[index][:, at : at + 1]) for index in (0, 5)]
        outputs = await _stepped(engine, steps)
    for index, output in zip((0, 5), outputs, strict=True):
        assert_close(output, (await outputs_of(reference, hidden[index][:, :14]))[:, 13:])
    await engine.truncate(caches[1], 63)
    for index, length in ((1, 63), (3, 0), (4, 12)):
        rest = await engine.run(caches[index], hidden[index][:, length:])
        assert_close(rest, (await outputs_of(reference, hidden[index]))[:, length:])


async def steps_through_parts_of_the_span_go_beside_those_through_all(
    engine: Engine, reference: Engine
) -> None:
    parts = [None, BlockRange(0, 1), BlockRange(1, 3), None, BlockRange(0, 1)]
    hidden = [hidden_states(1, 5, seed=seed) for seed in range(len(parts))]
    caches = [await engine.open_cache(1, 8, blocks) for blocks in parts]
    for cache, states in zip(caches, hidden, strict=True):
        await engine.run(cache, states[:, :4])
    steps = [(cache, states[:, 4:]) for cache, states in zip(caches, hidden, strict=True)]
    outputs = await _stepped(engine, steps)
    for blocks, states, output in zip(parts, hidden, outputs, strict=True):
        own = await fill(NumpyEngine(), only=blocks)
        assert_close(output, (await outputs_of(own, states))[:, 4:])


async def a_step_that_cannot_run_harms_no_other(engine: Engine, reference: Engine) -> None:
    hidden = hidden_states(1, 4)
    sound, full, other = [await engine.open_cache(1, length) for length in (8, 3, 8)]
    for cache in (sound, full, other):
        await engine.run(cache, hidden[:, :3])
    gone = await engine.open_cache(1, 8)
    await engine.close_cache(gone)
    step = hidden[:, 3:]
    wrong = [(full, step), (gone, step), (other, step[..., 1:]), (other, hidden[:, :2]), (sound, step)]
    results = await engine.run_many([(sound, step), *wrong])
    kinds = [CapacityError, EngineError, EngineError, EngineError, EngineError]
    expected = (await outputs_of(reference, hidden))[:, 3:]
    assert isinstance(results[0], np.ndarray), f"the sound step failed: {results[0]!r}"
    assert_close(results[0], expected)
    for result, kind in zip(results[1:], kinds, strict=True):
        assert isinstance(result, kind), f"expected {kind.__name__}, got {result!r}"
    assert_close(await engine.run(other, step), expected)
    assert await engine.run_many([]) == []


async def steps_share_no_memory(engine: Engine, reference: Engine) -> None:
    """Neither inputs nor earlier results change under their owners."""
    hidden = [hidden_states(1, 2, seed=seed) for seed in range(3)]
    given = [states.copy() for states in hidden]
    caches = [await engine.open_cache(1, 8) for _ in hidden]
    first = await _stepped(engine, [(c, states[:, :1]) for c, states in zip(caches, given, strict=True)])
    kept = [result.copy() for result in first]
    await _stepped(engine, [(c, states[:, 1:]) for c, states in zip(caches, given, strict=True)])
    assert all(np.array_equal(a, b) for a, b in zip(given, hidden, strict=True)), "an input was written to"
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True)), "a result was written to"


async def caches_keep_what_they_hold_while_others_come_and_go(engine: Engine, reference: Engine) -> None:
    """Opened, stepped, reordered and closed in a random order, so that their memory is rearranged."""
    random = np.random.default_rng(5)
    held: dict[int, Floats] = {}  # all that each cache was given
    for turn in range(24):
        if turn < 10 or random.random() < 0.4:
            batch, room = int(random.integers(1, 3)), int(random.choice([60, 64, 90, 300]))
            cache = await engine.open_cache(batch, room)
            held[cache] = hidden_states(batch, 1 + 3 * (turn % 2), seed=turn)
            await engine.run(cache, held[cache])
            rows = random.integers(0, batch, batch)
            await engine.reorder(cache, rows.tolist())
            held[cache] = held[cache][rows]
        else:
            await engine.close_cache(cache := int(random.choice(list(held))))
            del held[cache]
    for at in range(2):
        new = {cache: hidden_states(len(old), 1, seed=at) for cache, old in held.items()}
        outputs = await _stepped(engine, list(new.items()))
        for (cache, step), output in zip(new.items(), outputs, strict=True):
            held[cache] = np.concatenate([held[cache], step], axis=1)
            assert_close(output, (await outputs_of(reference, held[cache]))[:, -1:])
    for cache in held:
        await engine.close_cache(cache)


CHECKS = (
    steps_of_many_caches_match_their_own_runs,
    rows_that_take_no_part_are_not_touched,
    steps_through_parts_of_the_span_go_beside_those_through_all,
    a_step_that_cannot_run_harms_no_other,
    steps_share_no_memory,
    caches_keep_what_they_hold_while_others_come_and_go,
)

"""A check that a span computes at all, run by every engine before it says it is ready.

Rule of the file: only methods of the Engine port. The same positions are computed at once, in two
runs, and by steps of two caches of different lengths together: a wrong cache, a wrong mask, mixed
rows or weights that are not numbers show as a difference.
"""

from __future__ import annotations

import numpy as np

from ..errors import EngineError, LocalError
from ..ports import Engine, Floats
from ..types import SpanShape

TOLERANCE = 1e-3  # of the largest value; float32 kernels differ by about 1e-6 of it
HALF_TOLERANCE = 2e-2  # those of float16 by about 2e-3
_TOKENS = 4


def sample(tokens: int, hidden_size: int) -> Floats:
    """Fixed, lively hidden states [1, tokens, hidden_size]."""
    wave = np.sin(np.arange(tokens * hidden_size, dtype=np.float32) * np.float32(1.7))
    return np.ascontiguousarray(wave.reshape(1, tokens, hidden_size), np.float32)


async def self_test(engine: Engine, shape: SpanShape) -> None:
    """Raises ``EngineError`` if the built engine's results are not finite or not consistent."""
    tokens = min(_TOKENS, shape.max_positions)
    hidden = sample(tokens, shape.hidden_size)
    cache, other = await engine.open_cache(1, tokens), await engine.open_cache(1, tokens)
    try:
        whole = await engine.run(cache, hidden)
        await engine.truncate(cache, tokens - 1)
        last = await engine.run(cache, hidden[:, -1:])
        await engine.truncate(cache, tokens - 1)
        together = await engine.run_many([(other, hidden[:, :1]), (cache, hidden[:, -1:])])
    finally:
        await engine.close_cache(cache)
        await engine.close_cache(other)
    allowed = HALF_TOLERANCE if shape.half else TOLERANCE
    check_close("one step after a prefill", last[:, 0], whole[:, -1], allowed)
    for step, expected in zip(together, (whole[:, 0], whole[:, -1]), strict=True):
        if isinstance(step, LocalError):
            raise step
        check_close("a step of two caches together", step[:, 0], expected, allowed)


def check_close(what: str, found: Floats, expected: Floats, allowed: float = TOLERANCE) -> None:
    """``EngineError`` unless both are finite and differ by at most ``allowed`` of the largest value."""
    scale = max(1.0, float(np.abs(expected).max()))
    error = float(np.abs(found - expected).max()) / scale
    if not error <= allowed:  # also when it is not a number
        raise EngineError(
            f"the engine's self-test failed: {what} is off by {error:.1e} of the largest value "
            f"(allowed {allowed:.0e}); the weights are broken or this backend computes wrongly"
        )

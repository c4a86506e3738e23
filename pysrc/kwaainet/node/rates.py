"""How fast a server is: what it announces, so that clients and newcomers can choose.

Follows Petals' ``server/throughput.py``. Rule of the file: a rate is measured on the engine that
serves; what cannot be measured is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ports import Clock, Engine, Floats
from ..types import SpanShape

MEASURED_STEPS = 8  # single tokens timed for inference_rps, after one to warm up
MEASURED_TOKENS = 64  # tokens of the one run timed for forward_rps
RELAY_PENALTY = 0.2  # Petals counts a relayed server's network at a fifth
_SHORTEST = 1e-6  # seconds; keeps rates finite where the clock stands still


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second: ``inference`` and ``forward`` through one block, as Petals announces them."""

    inference: float
    forward: float


async def measure(engine: Engine, shape: SpanShape, now: Clock) -> Rates:
    """Time the engine quickly. Raises ``EngineError``."""
    tokens = min(MEASURED_TOKENS, shape.max_positions)
    token = np.zeros((1, 1, shape.hidden_size), np.float32)
    prompt = np.zeros((1, tokens, shape.hidden_size), np.float32)
    cache = await engine.open_cache(1, tokens)
    try:
        stepping = await _time(engine, cache, token, MEASURED_STEPS, now)
        filling = await _time(engine, cache, prompt, 1, now)
    finally:
        await engine.close_cache(cache)
    return Rates(shape.blocks * MEASURED_STEPS / stepping, shape.blocks * tokens / filling)


async def _time(engine: Engine, cache: int, hidden: Floats, runs: int, now: Clock) -> float:
    """Seconds of so many runs from an empty cache, after one that warms up; never 0."""
    started = now()
    for warm in range(-1, runs):
        if warm == 0:
            started = now()
        await engine.truncate(cache, 0)
        await engine.run(cache, hidden)
    return max(now() - started, _SHORTEST)


def throughput(rates: Rates | None, blocks: int, network: float, using_relay: bool) -> float:
    """Petals' one number: what a request that starts at a random block of ours gets, or the network."""
    limit = network * (RELAY_PENALTY if using_relay else 1.0)
    return limit if rates is None else min(rates.forward / ((blocks + 1) / 2), limit)

"""How fast a server is: what it announces, so that clients and newcomers can choose.

Follows Petals' ``server/throughput.py``. Rule of the file: a rate is measured on the engine that
serves; what cannot be measured is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ports import Clock, Engine
from ..types import SpanShape

BUDGET = 0.05  # seconds for either figure, about: somebody waits to be online, and serving corrects them
MEASURED_STEPS = 8  # single tokens timed for inference_rps at most, after one to warm up
MEASURED_TOKENS = 64  # tokens of the one run timed for forward_rps at most,
LEAST_TOKENS = 16  # and at least: of shorter runs most is overhead
BITS = 16.0  # of a number on the wire, by Petals' count
RELAY_PENALTY = 0.2  # Petals counts a relayed server's network at a fifth
_SHORTEST = 1e-6  # seconds; keeps rates finite where the clock stands still


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second: ``inference`` and ``forward`` through one block, as Petals announces them."""

    inference: float
    forward: float

    def times(self, share: float) -> Rates:
        """Those of an engine that computes for this share of the time."""
        return Rates(self.inference * share, self.forward * share)


async def measure(engine: Engine, shape: SpanShape, now: Clock) -> Rates:
    """Time the engine quickly: a fast one by more runs than a slow one. Raises ``EngineError``."""
    most = min(MEASURED_TOKENS, shape.max_positions)
    cache = await engine.open_cache(1, most)
    try:
        await _time(engine, cache, 1, shape, now)  # warms up
        stepping, steps = 0.0, 0
        while steps < MEASURED_STEPS and stepping < BUDGET:
            stepping, steps = stepping + await _time(engine, cache, 1, shape, now), steps + 1
        tokens = min(most, max(LEAST_TOKENS, int(BUDGET * steps / stepping)))
        filling = await _time(engine, cache, tokens, shape, now)
    finally:
        await engine.close_cache(cache)
    return Rates(shape.blocks * steps / stepping, shape.blocks * tokens / filling)


async def _time(engine: Engine, cache: int, tokens: int, shape: SpanShape, now: Clock) -> float:
    """Seconds of one run of so many tokens from an empty cache; never 0."""
    await engine.truncate(cache, 0)
    started = now()
    await engine.run(cache, np.zeros((1, tokens, shape.hidden_size), np.float32))
    return max(now() - started, _SHORTEST)


def network_rps(bits_per_second: float, hidden_size: int) -> float:
    """Tokens per second that the network carries; Petals counts 16 bits a number."""
    return bits_per_second / (BITS * hidden_size)


def throughput(rates: Rates | None, blocks: int, network: float, using_relay: bool) -> float:
    """Petals' one number: what a request that starts at a random block of ours gets, or the network."""
    limit = network * (RELAY_PENALTY if using_relay else 1.0)
    return limit if rates is None else min(rates.forward / ((blocks + 1) / 2), limit)

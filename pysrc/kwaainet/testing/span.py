"""The small span that engines are compared on, and how its outputs are compared.

Rule of the file: what more than one suite of checks needs; no check is here.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import numpy as np

from ..formats.config import ModelConfig
from ..formats.quantize import quantize
from ..formats.weights import Weight, weights_of
from ..inference.writers import writer_for
from ..ports import Engine, Floats
from ..types import BlockRange

TOLERANCE = 1e-4
# Odd on purpose: grouped heads, a head_dim that is not hidden_size / heads, an inner size
# that is no multiple of 8.
CONFIG = ModelConfig(
    num_hidden_layers=3,
    hidden_size=200,
    intermediate_size=500,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=32,
    vocab_size=64,
    max_position_embeddings=320,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=True,
)

# One block whose rows blocks of 32 numbers fill.
QUANTIZED = replace(CONFIG, num_hidden_layers=1, hidden_size=192, intermediate_size=256)


def random_weights(config: ModelConfig, seed: int) -> dict[str, Floats]:
    """One block's weights by Hugging Face suffix; scaled so that a block neither fades nor explodes."""
    random = np.random.default_rng(seed)
    weights = {}
    for suffix, shape in config.block_shapes().items():
        values = random.standard_normal(shape, np.float32)
        weights[suffix] = (
            1 + values * np.float32(0.1) if len(shape) == 1 else values / np.float32(shape[1] ** 0.5)
        )
    return weights


def stored(dtype: str, numbers: Floats) -> Weight:
    """``numbers`` [out, in] as a file of that storage type has them, rounded; ``in`` a multiple of 32."""
    if dtype != "Q4_1":
        return Weight(dtype, numbers.shape, quantize(dtype, numbers))
    symmetric = np.frombuffer(quantize("Q4_0", numbers), np.uint8).reshape(-1, 18)
    scales = symmetric[:, :2].copy().view("<f2")
    minima = (scales * np.float16(-7.5)).view(np.uint8)
    return Weight("Q4_1", numbers.shape, np.hstack([symmetric[:, :2], minima, symmetric[:, 2:]]).tobytes())


async def fill(engine: Engine, config: ModelConfig = CONFIG, only: BlockRange | None = None) -> Engine:
    """Build ``engine`` over ``config``'s blocks, or only some of them, with random weights."""
    blocks = only or BlockRange(0, config.num_hidden_layers)
    writer = writer_for(engine.graphs, config, blocks)
    for name, table in writer.constants():
        await engine.add_tensor(name, table)
    for index in range(blocks.start, blocks.end):
        for name, tensor in writer.pack_block(index, weights_of(random_weights(config, index))):
            await engine.add_tensor(name, tensor)
    await engine.build(writer.graph(), writer.shape)
    return engine


def hidden_states(batch: int, tokens: int, seed: int = 1) -> Floats:
    """float32 [batch, tokens, hidden] of about unit size."""
    return np.random.default_rng(seed).standard_normal((batch, tokens, CONFIG.hidden_size), np.float32)


async def outputs_of(reference: Engine, hidden: Floats) -> Floats:
    """What the reference computes for hidden [batch, n, hidden], all at once on a cache of its own."""
    cache = await reference.open_cache(hidden.shape[0], hidden.shape[1])
    result = await reference.run(cache, hidden)
    await reference.close_cache(cache)
    return result


async def in_steps(engine: Engine, cache: int, hidden: Floats, *lengths: int) -> Floats:
    """Run ``hidden`` in chunks of ``lengths`` positions; 0 stands for one by one to the end."""
    parts = []
    at = 0
    for length in lengths:
        for _ in range(hidden.shape[1] - at if length == 0 else 1):
            parts.append(await engine.run(cache, hidden[:, at : at + (length or 1)]))
            at += length or 1
    assert at == hidden.shape[1], "the check itself must cover all positions"
    return np.concatenate(parts, axis=1)


def assert_close(found: Floats, expected: Floats) -> None:
    """Shape, dtype, and numbers within ``TOLERANCE``."""
    assert found.shape == expected.shape, f"shape {found.shape}, expected {expected.shape}"
    assert found.dtype == np.float32, f"dtype {found.dtype}, expected float32"
    error = float(np.abs(found - expected).max(initial=0.0))
    assert error <= TOLERANCE, f"max abs error {error:.1e} is above {TOLERANCE:.0e}"


async def refused(error: type[Exception], call: Awaitable[Any]) -> None:
    """The call raises this error."""
    try:
        result = await call
    except error:
        return
    raise AssertionError(f"expected {error.__name__}, got the result {result!r}")

"""What Hugging Face computes for a tiny model of each architecture, from ``architecture_vectors.py``'s file.

Rule of the file: weights are made here again from their names, number by number as there.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formats.config import ModelConfig, block_name
from ..formats.huggingface import read_config
from ..formats.weights import weights_of
from ..inference.writers import writer_for
from ..ports import Engine, Floats
from ..types import BlockRange


@dataclass(frozen=True)
class Case:
    """One model: ``hidden`` float [1, tokens, hidden] goes into its first block, ``expected`` comes out of
    its last, ``logits`` [vocab] belong to the last token."""

    config: ModelConfig
    tensors: Mapping[str, Floats]
    tokens: list[int]
    hidden: Floats
    expected: Floats
    logits: Floats

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Case:
        """From one case of the file."""
        config = read_config(value["config"])
        tensors = {
            name: _weight(name, tuple(shape), seed)
            for seed, (name, shape) in enumerate(sorted(value["shapes"].items()))
        }
        states = (1, len(value["tokens"]), config.hidden_size)
        return cls(
            config,
            tensors,
            value["tokens"],
            _floats(value["hidden"]).reshape(states),
            _floats(value["expected"]).reshape(states),
            _floats(value["logits"]),
        )

    def block(self, index: int) -> dict[str, Floats]:
        """One block's weights by Hugging Face's suffixes."""
        return {suffix: self.tensors[block_name(index, suffix)] for suffix in self.config.block_shapes()}

    async def fill(self, engine: Engine, blocks: BlockRange | None = None) -> None:
        """Build ``engine`` over ``blocks``, all of them unless said."""
        blocks = blocks or BlockRange(0, self.config.num_hidden_layers)
        writer = writer_for(engine.graphs, self.config, blocks)
        for name, array in writer.constants():
            await engine.add_tensor(name, array)
        for index in range(blocks.start, blocks.end):
            for name, array in writer.pack_block(index, weights_of(self.block(index))):
                await engine.add_tensor(name, array)
        await engine.build(writer.graph(), writer.shape)


async def check(engine: Engine, case: Case, allowed: float) -> None:
    """Everything at once, and in chunks and steps beyond the window, is ``expected`` but for ``allowed``.

    Raises ``AssertionError``, and what building and running raise.
    """
    await case.fill(engine)
    try:
        whole, steps = [await engine.open_cache(1, 32) for _ in range(2)]
        at_once = await engine.run(whole, case.hidden)
        parts = [await engine.run(steps, part) for part in np.split(case.hidden, [6, 11, 12, 13], axis=1)]
    finally:
        await engine.close()
    for found in (at_once, np.concatenate(parts, axis=1)):
        error = float(np.abs(found - case.expected).max())
        assert error <= allowed, f"off by {error:.1e}, allowed {allowed:.0e}"


def _floats(text: str) -> Floats:
    return np.frombuffer(base64.b64decode(text), "<f4")


def _weight(name: str, shape: tuple[int, ...], seed: int) -> Floats:
    x = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(seed * 7919 + 1)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    x ^= x >> np.uint32(16)
    numbers = (x / 2**31 - 1).astype(np.float32).reshape(shape)
    if name.endswith("norm.weight"):
        return np.asarray(1 + numbers / 4, np.float32)
    small = len(shape) > 1 and "embed" not in name
    return np.asarray(numbers * np.float32(2 * shape[1] ** -0.5), np.float32) if small else numbers

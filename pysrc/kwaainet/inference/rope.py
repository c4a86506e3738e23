"""The tables of a span's rotary embedding: one pair, or two where some blocks turn by another base.

Follows Hugging Face's ``LlamaRotaryEmbedding`` and ``Gemma3RotaryEmbedding``. Rule of the file: angles
are float64 until they are tables, so that position 100000 is as exact as position 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..formats.config import ModelConfig
from ..formats.rope import inverse_frequencies
from ..ports import Floats
from ..types import BlockRange


def table_names(config: ModelConfig, index: int) -> tuple[str, str]:
    """The tables that block ``index`` of the model turns by."""
    return ("cos_local", "sin_local") if config.local_rope(index) else ("cos", "sin")


def rope_tables(config: ModelConfig, blocks: BlockRange) -> Iterator[tuple[str, Floats]]:
    """``table_names`` of all ``blocks``: float32 [max_positions, rotary_dim / 2] each.

    The number i of a head, counted from its start, turns with the number i + rotary_dim / 2.
    """
    kinds = {config.local_rope(index) for index in range(blocks.start, blocks.end)}
    for local in sorted(kinds):
        scaling = None if local else config.rope_scaling
        theta = config.rope_local_base_freq if local else config.rope_theta
        assert theta is not None, "local_rope says there is one"
        frequencies = inverse_frequencies(theta, config.rotary_dim, scaling)
        angles = np.outer(np.arange(config.max_position_embeddings, dtype=np.float64), frequencies)
        size = 1.0 if scaling is None else scaling.attention_factor
        suffix = "_local" if local else ""
        yield f"cos{suffix}", (np.cos(angles) * size).astype(np.float32)
        yield f"sin{suffix}", (np.sin(angles) * size).astype(np.float32)

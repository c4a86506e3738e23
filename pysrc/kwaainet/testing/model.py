"""A small random Llama as a manifest and its one file: what a node needs to serve blocks of it.

Rule of the file: the same seed gives the same bytes; sizes are odd enough that a mixed-up axis shows.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np

from ..formats.config import ModelConfig
from ..formats.manifest import ModelManifest, TensorEntry

FILE = "model.bin"
TINY = ModelConfig(
    num_hidden_layers=5,
    hidden_size=24,
    intermediate_size=40,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=4,
    vocab_size=32,
    max_position_embeddings=96,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=False,
)


def random_model(config: ModelConfig = TINY, seed: int = 0) -> tuple[ModelManifest, dict[str, bytes]]:
    """(manifest, files): float32 weights, scaled so that a block neither fades nor explodes."""
    random = np.random.default_rng(seed)
    entries: dict[str, TensorEntry] = {}
    data = b""
    for name, shape in config.tensor_shapes().items():
        values = random.standard_normal(shape, np.float32)
        values = 1 + values * np.float32(0.1) if len(shape) == 1 else values / np.float32(shape[1] ** 0.5)
        raw = values.astype("<f4").tobytes()
        entries[name] = TensorEntry(FILE, len(data), len(raw), sha256(raw).hexdigest(), "F32", shape)
        data += raw
    return ModelManifest("tiny", config, entries), {FILE: data}

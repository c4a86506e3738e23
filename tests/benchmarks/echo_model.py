"""A model that computes next to nothing with messages of the usual size: what is left of a step is its way.

Rule of the file: hidden states as SmolLM2's, one block, and everything inside it as narrow as may be.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from kwaainet.formats.config import ModelConfig
from kwaainet.formats.huggingface import write_config

from .model import HIDDEN_SIZE

PREFIX = "echo-hf"
ECHO = ModelConfig(
    num_hidden_layers=1,
    hidden_size=HIDDEN_SIZE,
    intermediate_size=32,
    num_attention_heads=1,
    num_key_value_heads=1,
    head_dim=32,
    vocab_size=8,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=False,
)


def write_echo_model(folder: Path) -> Path:
    """Random weights as a Hugging Face directory."""
    random = np.random.default_rng(0)
    tensors = {
        name: random.standard_normal(shape, np.float32) / np.float32(100)
        for name, shape in ECHO.tensor_shapes().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(write_config(ECHO)))
    return folder

"""Writes a small random Llama with a byte-level tokenizer as a Hugging Face directory.

Odd enough (grouped-query heads, untied head) that a mixed-up axis shows; seeded, always the same.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy

from kwaainet.formats.config import ModelConfig
from kwaainet.inference.tokenizer import _ALPHABET

PREFIX = "small-hf"
TOKENS = ["<|start|>", "<|end|>", *_ALPHABET]
CONFIG = ModelConfig(
    num_hidden_layers=3,
    hidden_size=64,
    intermediate_size=88,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=len(TOKENS),
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=False,
    bos_token_id=0,
    eos_token_id=1,
)


def write_model(folder: Path, context: int = CONFIG.max_position_embeddings) -> Path:
    """The directory, made; ``context`` changes how many tokens it holds, not its weights."""
    config = replace(CONFIG, max_position_embeddings=context)
    random = np.random.default_rng(5)
    weights = {}
    for name, shape in config.tensor_shapes().items():
        values = random.standard_normal(shape, np.float32)
        weights[name] = (
            1 + values * np.float32(0.1) if len(shape) == 1 else values / np.float32(shape[1] ** 0.5)
        )
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "hidden_act": "silu", **config.to_json()})
    )
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": TOKENS[0], "eos_token": TOKENS[1]})
    )
    safetensors.numpy.save_file(
        weights, folder / "model.safetensors", {"format": "pt"}
    )  # as transformers wants
    return folder


def _tokenizer() -> dict[str, object]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": TOKENS[i], "special": True, **flags} for i in range(2)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(TOKENS)},
            "merges": [],
        },
    }

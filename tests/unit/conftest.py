"""A tiny Llama with odd shapes, and writers of it by the formats' reference packages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kwaainet.formats.config import ModelConfig
from kwaainet.inference.tokenizer import _ALPHABET

Weights = dict[str, NDArray[np.float32]]

CHAT = "{% for message in messages %}<|start|>{{ message['content'] }}<|end|>{% endfor %}"
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r"]
TOKENS = ["<|start|>", "<|end|>", *_ALPHABET, *(merge.replace(" ", "") for merge in MERGES)]


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    """Grouped-query heads, a separate head, a vocabulary of the size of ``TOKENS``."""
    return ModelConfig(
        num_hidden_layers=2,
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=len(TOKENS),
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )


@pytest.fixture(scope="session")
def tiny_weights(tiny_config: ModelConfig) -> Weights:
    generator = np.random.default_rng(7)
    return {
        name: generator.standard_normal(shape, dtype=np.float32)
        for name, shape in tiny_config.tensor_shapes().items()
    }


@pytest.fixture(scope="session")
def tiny_metadata(tiny_config: ModelConfig) -> dict[str, Any]:
    """What the GGUF writer is told, by key."""
    return {
        "llama.block_count": tiny_config.num_hidden_layers,
        "llama.context_length": tiny_config.max_position_embeddings,
        "llama.embedding_length": tiny_config.hidden_size,
        "llama.feed_forward_length": tiny_config.intermediate_size,
        "llama.attention.head_count": tiny_config.num_attention_heads,
        "llama.attention.head_count_kv": tiny_config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": tiny_config.rms_norm_eps,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [3, 3] + [1] * (len(TOKENS) - 2),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.chat_template": CHAT,
    }


def _permute(rows: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """llama.cpp's ``LlamaModel.permute``."""
    heads = rows.shape[0] // head_dim
    return rows.reshape(heads, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(rows.shape)


@pytest.fixture(scope="session")
def write_gguf(tiny_config: ModelConfig, tiny_metadata: dict[str, Any]) -> Callable[..., Path]:
    """``write_gguf(path, weights, dtype, architecture, metadata={…}, split=0)``; metadata ``None``
    drops a key, ``split`` tensors make a file."""
    import gguf  # here, for there is none inside Pyodide, where most of these tests run too

    def write(
        path: Path,
        weights: Mapping[str, NDArray[np.float32]],
        dtype: str = "F32",
        architecture: str = "llama",
        metadata: Mapping[str, Any] | None = None,
        split: int = 0,
    ) -> Path:
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, tiny_config.num_hidden_layers)
        writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split)
        for key, value in {**tiny_metadata, **(metadata or {})}.items():
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            elif isinstance(value, float):
                writer.add_float32(key, value)
            elif isinstance(value, str):
                writer.add_string(key, value)
            elif value is not None:
                writer.add_array(key, value)
        for name, array in weights.items():
            if "q_proj" in name or "k_proj" in name:
                array = _permute(array, tiny_config.head_dim)
            kind = gguf.GGMLQuantizationType[dtype if array.ndim > 1 else "F32"]
            raw = gguf.quants.quantize(array, kind)
            writer.add_tensor(names.get_name(name, (".weight", ".bias")) or name, raw, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.fixture(scope="session")
def tiny_tokenizer_json() -> dict[str, Any]:
    """As ``tokenizers`` writes it today."""
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
            "merges": [merge.split(" ") for merge in MERGES],
        },
    }


@pytest.fixture(scope="session")
def write_directory(tiny_config: ModelConfig, tiny_tokenizer_json: dict[str, Any]) -> Callable[..., Path]:
    """``write_directory(folder, weights, shards=1, config={…})``: a Hugging Face directory."""
    import safetensors.numpy  # here, for there is none inside Pyodide

    def write(
        folder: Path,
        weights: Mapping[str, NDArray[Any]],
        shards: int = 1,
        config: Mapping[str, Any] | None = None,
    ) -> Path:
        folder.mkdir()
        settings = {"model_type": "llama", "hidden_act": "silu", **tiny_config.to_json(), **(config or {})}
        (folder / "config.json").write_text(json.dumps(settings))
        (folder / "tokenizer.json").write_text(json.dumps(tiny_tokenizer_json))
        tokens = {"bos_token": TOKENS[0], "eos_token": {"content": TOKENS[1]}, "chat_template": CHAT}
        (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
        if shards == 1:
            safetensors.numpy.save_file(dict(weights), folder / "model.safetensors")
            return folder
        weight_map: dict[str, str] = {}
        for shard in range(shards):
            file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
            part = {name: weights[name] for name in list(weights)[shard::shards]}
            safetensors.numpy.save_file(part, folder / file)
            weight_map.update(dict.fromkeys(part, file))
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return folder

    return write

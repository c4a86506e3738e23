"""What a GGUF file says of a Llama model, in Hugging Face's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kwaainet.errors import ModelFileError, UnsupportedModel
from kwaainet.formats import gguf, gguf_llama
from kwaainet.formats.config import ModelConfig


@pytest.fixture
def index(
    tmp_path: Path, write_gguf: Callable[..., Path], tiny_weights: Mapping[str, Any]
) -> Callable[..., gguf.GgufIndex]:
    def make(drop: str = "", add: Mapping[str, Any] | None = None, **arguments: Any) -> gguf.GgufIndex:
        weights = {name: array for name, array in tiny_weights.items() if name != drop} | dict(add or {})
        data = write_gguf(tmp_path / "m.gguf", weights, **arguments).read_bytes()
        return gguf.parse(data, len(data))

    return make


def test_config(index: Callable[..., gguf.GgufIndex], tiny_config: ModelConfig) -> None:
    assert gguf_llama.read_config(index()) == tiny_config  # 1e-5, not the float32 nearest to it
    tied = gguf_llama.read_config(index(drop="lm_head.weight"))
    assert tied == replace(tiny_config, tie_word_embeddings=True)


def test_keys_that_may_be_missing(index: Callable[..., gguf.GgufIndex]) -> None:
    metadata = {"llama.attention.head_count_kv": None, "tokenizer.ggml.eos_token_id": None}
    config = gguf_llama.read_config(index(metadata=metadata))
    assert (config.num_key_value_heads, config.eos_token_id) == (4, None)
    config = gguf_llama.read_config(index(metadata={"llama.attention.head_count_kv": [2, 2]}))
    assert config.num_key_value_heads == 2


def test_tensors_have_canonical_names(index: Callable[..., gguf.GgufIndex], tiny_config: ModelConfig) -> None:
    entries = gguf_llama.read_tensors(index(), "m.gguf")
    assert {name: entry.shape for name, entry in entries.items()} == tiny_config.tensor_shapes()
    permuted = {name.split(".")[-2] for name, entry in entries.items() if entry.permuted}
    assert permuted == {"q_proj", "k_proj"}
    assert {entry.file for entry in entries.values()} == {"m.gguf"}


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({"llama.rope.scaling.type": "yarn"}, UnsupportedModel, r"llama.rope.scaling.type is 'yarn'"),
        ({"llama.expert_count": 8}, UnsupportedModel, "llama.expert_count is 8"),
        ({"llama.rope.dimension_count": 8}, UnsupportedModel, "dimension_count is not the heads' size 16"),
        ({"llama.block_count": None}, ModelFileError, "llama.block_count is None; an integer is needed"),
        ({"llama.block_count": "2"}, ModelFileError, "llama.block_count is '2'"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, ModelFileError, "rms_epsilon is None; a float is"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, ModelFileError, "rms_norm_eps is nan"),
        ({"llama.attention.head_count": 0}, ModelFileError, "among 0 attention heads"),
        ({"llama.attention.head_count": 5}, ModelFileError, "among 5 attention heads"),
        ({"llama.attention.head_count_kv": [2, 4]}, ModelFileError, "an integer is needed"),
    ],
)
def test_what_is_not_supported_is_named(
    index: Callable[..., gguf.GgufIndex], metadata: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        gguf_llama.read_config(index(metadata=metadata))


def test_other_architectures_are_named(index: Callable[..., gguf.GgufIndex]) -> None:
    with pytest.raises(UnsupportedModel, match="'gemma3'; only 'llama'"):
        gguf_llama.read_config(index(architecture="gemma3"))


@pytest.mark.parametrize(
    "name", ["rope_freqs.weight", "blk.0.attn_q.bias", "blk.00.attn_q.weight", "blk.99999.attn_q.weight"]
)
def test_foreign_tensors_are_named(index: Callable[..., gguf.GgufIndex], name: str) -> None:
    with pytest.raises(UnsupportedModel, match=name):
        gguf_llama.read_tensors(index(add={name: np.zeros(4, np.float32)}), "m.gguf")


def test_a_file_without_embeddings_is_refused(index: Callable[..., gguf.GgufIndex]) -> None:
    with pytest.raises(ModelFileError, match=r"no tensor token_embd\.weight"):
        gguf_llama.read_config(index(drop="model.embed_tokens.weight"))

"""``config.json`` as old and new ``transformers`` write it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kwaainet.errors import ModelFileError, UnsupportedModel
from kwaainet.formats.config import FULL, SLIDING, ModelConfig
from kwaainet.formats.huggingface import read_config, read_tensors, write_config
from kwaainet.formats.rope import RopeScaling
from kwaainet.formats.stored import StoredTensor

CASES = json.loads((Path(__file__).parents[2] / "vectors" / "architectures.json").read_text())["cases"]
NEEDED = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "vocab_size": 32000,
}
LLAMA_2: dict[str, Any] = {  # meta-llama/Llama-2-7b-hf, as it was published
    **NEEDED,
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 4096,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0",
    "use_cache": True,
}


def test_an_old_config_with_its_defaults() -> None:
    config = read_config(LLAMA_2)
    assert (config.head_dim, config.rope_theta, config.num_hidden_layers) == (128, 10000.0, 32)
    assert read_config(NEEDED) == replace(
        config, max_position_embeddings=2048, rms_norm_eps=1e-6, bos_token_id=None, eos_token_id=None
    )


def test_a_new_config() -> None:
    new = LLAMA_2 | {
        "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"},
        "head_dim": 64,
        "eos_token_id": [7, 8],
        "tie_word_embeddings": True,
    }
    config = read_config(new)
    assert (config.rope_theta, config.head_dim, config.eos_token_id, config.tie_word_embeddings) == (
        5e5,
        64,
        7,
        True,
    )


def test_what_we_write_we_read(tiny_config: ModelConfig) -> None:
    for config in (tiny_config, replace(tiny_config, tie_word_embeddings=True)):
        written = write_config(config)
        assert written["architectures"] == ["LlamaForCausalLM"]
        assert read_config(written) == config


@pytest.mark.parametrize("name", CASES)
def test_what_newer_versions_wrote_survives_being_written(name: str) -> None:
    read = read_config(CASES[name]["config"])
    written = json.loads(json.dumps(write_config(read)))
    assert read_config(written) == read
    assert written["architectures"] == CASES[name]["config"]["architectures"]
    assert ModelConfig.from_json(json.loads(json.dumps(read.to_json()))) == read


def test_older_versions_left_more_to_their_defaults() -> None:
    scaling = {"rope_scaling": {"factor": 8.0, "type": "linear"}}
    gemma = read_config(NEEDED | {"model_type": "gemma3_text", "num_hidden_layers": 12} | scaling)
    assert gemma.layer_types == ((SLIDING,) * 5 + (FULL,)) * 2
    assert (gemma.rope_theta, gemma.rope_local_base_freq, gemma.head_dim) == (1e6, 1e4, 256)
    assert gemma.rope_scaling == RopeScaling("linear", 8.0)
    assert (gemma.tie_word_embeddings, gemma.embedding_scale) == (True, 64.0)
    gemma2 = read_config(NEEDED | {"model_type": "gemma2", "num_hidden_layers": 3})
    assert gemma2.layer_types == (SLIDING, FULL, SLIDING)
    assert (gemma2.attn_logit_softcapping, gemma2.final_logit_softcapping) == (50.0, 30.0)
    assert read_config(NEEDED | {"model_type": "mistral"}).sliding_window == 4096
    assert read_config(NEEDED | {"model_type": "mistral", "sliding_window": None}).sliding_window is None
    assert read_config(NEEDED | {"model_type": "qwen2", "sliding_window": 4096}).sliding_window is None
    mixtral = read_config(NEEDED | {"model_type": "mixtral"})
    assert (mixtral.num_local_experts, mixtral.num_experts_per_tok, mixtral.rope_theta) == (8, 2, 1e6)


def test_a_longrope_ends_where_its_short_factors_do() -> None:
    scaling = {"type": "su", "short_factor": [1.5] * 64, "long_factor": [9.0] * 64}
    phi = NEEDED | {"model_type": "phi3", "max_position_embeddings": 131072, "rope_scaling": scaling}
    config = read_config(phi | {"original_max_position_embeddings": 4096})
    assert config.max_position_embeddings == 4096
    assert config.rope_scaling is not None
    assert config.rope_scaling.attention_factor == pytest.approx(1.19023807)
    assert config.rope_scaling.factors == (1.5,) * 64


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model_type": "falcon"}, UnsupportedModel, "model_type is 'falcon'; supported are llama, mistral"),
        ({"model_type": ["llama"]}, UnsupportedModel, "model_type is .'llama'."),
        ({"hidden_act": "gelu"}, UnsupportedModel, "hidden_act 'gelu'"),
        ({"hidden_act": 1}, ModelFileError, "hidden_act is 1; a name"),
        ({"attention_bias": True}, UnsupportedModel, "attention_bias is True"),
        ({"quantization_config": {"bits": 4}}, UnsupportedModel, "quantization_config"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, UnsupportedModel, "type 'dynamic'"),
        ({"rope_scaling": {"type": "yarn", "mscale": 1.0}}, UnsupportedModel, "mscale is not supported"),
        ({"rope_parameters": {"rope_type": "llama3"}}, ModelFileError, "original_max_position_embeddings"),
        ({"rope_scaling": 2}, ModelFileError, "rope_scaling is 2; an object"),
        ({"rope_scaling": {"type": "longrope"}}, ModelFileError, "short_factor is None"),
        ({"model_type": "gemma2", "layer_types": "x"}, ModelFileError, "layer_types is 'x'"),
        ({"num_hidden_layers": None}, ModelFileError, "num_hidden_layers is missing"),
        ({"vocab_size": "32000"}, ModelFileError, "vocab_size is '32000'"),
        ({"rms_norm_eps": True}, ModelFileError, "rms_norm_eps is True"),
        ({"rope_theta": 10**400}, ModelFileError, "rope_theta is too large"),
        ({"num_attention_heads": 0}, ModelFileError, "among 0 heads"),
        ({"num_attention_heads": 33}, ModelFileError, "among 33 heads"),
        ({"num_key_value_heads": 5}, ModelFileError, "32 heads do not divide among 5"),
    ],
)
def test_what_is_not_supported_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_config(LLAMA_2 | change)


def test_only_the_models_own_tensors_are_taken(tiny_config: ModelConfig) -> None:
    norm = StoredTensor("F32", (64,), 100, 256)
    stored = {
        "model.norm.weight": norm,
        "model.layers.0.self_attn.rotary_emb.inv_freq": norm,
        "lm_head.weight": norm,
    }
    tied = replace(tiny_config, tie_word_embeddings=True)
    assert list(read_tensors(stored, "f", tied)) == ["model.norm.weight"]
    for name in ("model.layers.0.self_attn.q_proj.bias", "model.layers.2.mlp.up_proj.weight"):
        with pytest.raises(UnsupportedModel, match=name):
            read_tensors({name: norm}, "f", tiny_config)

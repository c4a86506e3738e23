"""A config is checked once, when it is made."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from kwaainet.errors import InputError, ModelFileError, UnsupportedModel
from kwaainet.formats.config import FULL, SLIDING, ModelConfig
from kwaainet.formats.rope import RopeScaling


def test_json_round_trip(tiny_config: ModelConfig) -> None:
    assert ModelConfig.from_json(json.loads(json.dumps(tiny_config.to_json()))) == tiny_config


def test_what_a_plain_llama_has_not_is_not_written(tiny_config: ModelConfig) -> None:
    plain = tiny_config.to_json()
    assert len(plain) == 13
    assert "eos_token_id" in plain
    gemma = replace(
        tiny_config,
        post_norms=True,
        sliding_window=8,
        layer_types=(SLIDING, FULL),
        rope_local_base_freq=100.0,
        rope_scaling=RopeScaling("linear", 8.0),
    )
    value = json.loads(json.dumps(gemma.to_json()))
    assert value.keys() - plain.keys() == {
        "post_norms",
        "sliding_window",
        "layer_types",
        "rope_local_base_freq",
        "rope_scaling",
    }
    assert ModelConfig.from_json(value) == gemma
    assert [gemma.window(0), gemma.window(1)] == [8, None]
    assert [gemma.local_rope(0), gemma.local_rope(1)] == [True, False]
    with pytest.raises(UnsupportedModel, match="clip_qkv is not known here"):
        ModelConfig.from_json(plain | {"clip_qkv": 1.0})


def test_shapes_name_every_tensor_once(tiny_config: ModelConfig) -> None:
    shapes = tiny_config.tensor_shapes()
    assert len(shapes) == 2 * 9 + 3
    assert shapes["model.layers.1.self_attn.k_proj.weight"] == (32, 64)
    assert shapes["model.layers.0.mlp.down_proj.weight"] == (64, 96)
    assert "lm_head.weight" not in replace(tiny_config, tie_word_embeddings=True).tensor_shapes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"hidden_size": 1 << 40}, "hidden_size is"),
        ({"num_key_value_heads": 3}, "4 heads do not divide among 3"),
        ({"head_dim": 15}, "must be even"),
        ({"rope_theta": float("inf")}, "rope_theta is inf"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps is 0.0"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not one of"),
        ({"attn_logit_softcapping": -1.0}, "attn_logit_softcapping is -1.0"),
        ({"norm_offset": 0.5}, "norm_offset is 0.5"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"layer_types": (FULL,)}, "1 layer_types do not fit 2"),
        ({"layer_types": (FULL, "chunked")}, "type 'chunked' is not known"),
        ({"layer_types": (FULL, SLIDING)}, "there is no sliding_window"),
        ({"partial_rotary_factor": 0.2}, "partial_rotary_factor is 0.2"),
        ({"num_local_experts": 4}, "0 of 4 experts"),
        ({"num_local_experts": 1 << 20, "num_experts_per_tok": 2}, "at most 256"),
    ],
)
def test_impossible_sizes_are_refused(tiny_config: ModelConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(tiny_config, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"rope_theta": 10**400}, "rope_theta is 1000"),
        ({"rope_theta": None}, "rope_theta is None"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
    ],
)
def test_wrong_types_are_refused(tiny_config: ModelConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        ModelConfig.from_json(tiny_config.to_json() | change)


def test_missing_fields_are_named(tiny_config: ModelConfig) -> None:
    value = tiny_config.to_json()
    del value["vocab_size"], value["bos_token_id"]
    with pytest.raises(ModelFileError, match=r"missing vocab_size$"):
        ModelConfig.from_json(value)
    with pytest.raises(ModelFileError, match="expected a JSON object, got list"):
        ModelConfig.from_json([])

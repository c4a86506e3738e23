"""A config is checked once, when it is made."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from kwaainet.errors import ModelFileError
from kwaainet.formats.config import LlamaConfig


def test_json_round_trip(tiny_config: LlamaConfig) -> None:
    assert LlamaConfig.from_json(json.loads(json.dumps(tiny_config.to_json()))) == tiny_config


def test_shapes_name_every_tensor_once(tiny_config: LlamaConfig) -> None:
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
    ],
)
def test_impossible_sizes_are_refused(tiny_config: LlamaConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
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
def test_wrong_types_are_refused(tiny_config: LlamaConfig, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        LlamaConfig.from_json(tiny_config.to_json() | change)


def test_missing_fields_are_named(tiny_config: LlamaConfig) -> None:
    value = tiny_config.to_json()
    del value["vocab_size"], value["bos_token_id"]
    with pytest.raises(ModelFileError, match=r"missing vocab_size$"):
        LlamaConfig.from_json(value)
    with pytest.raises(ModelFileError, match="expected a JSON object, got list"):
        LlamaConfig.from_json([])

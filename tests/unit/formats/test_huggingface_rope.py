"""Rotary settings in every spelling that ``config.json`` has had."""

from __future__ import annotations

from typing import Any

import pytest

from kwaainet.errors import InputError, ModelFileError, UnsupportedModel
from kwaainet.formats.huggingface_rope import Rope, read_rope
from kwaainet.formats.rope import RopeScaling

LINEAR = {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, Rope(1e4, None, None, 1.0, 64)),
        ({"rope_theta": 5e5, "rope_scaling": None}, Rope(5e5, None, None, 1.0, 64)),
        (
            {"rope_scaling": {"type": "linear", "factor": 4.0}},
            Rope(1e4, RopeScaling("linear", 4.0), None, 1.0, 64),
        ),
        (
            {"rope_parameters": {**LINEAR, "rope_theta": 100.0, "partial_rotary_factor": 0.5}},
            Rope(100.0, RopeScaling("linear", 4.0), None, 0.5, 64),
        ),
        (
            {"rope_parameters": {"full_attention": LINEAR, "sliding_attention": {"rope_theta": 7.0}}},
            Rope(1e4, RopeScaling("linear", 4.0), 7.0, 1.0, 64),
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0, "attention_factor": 1.5}},
            Rope(1e4, RopeScaling("yarn", 4.0, 64.0, attention_factor=1.5), None, 1.0, 64),
        ),
    ],
)
def test_spellings(value: dict[str, Any], expected: Rope) -> None:
    assert read_rope(value, 64) == expected


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, UnsupportedModel, "type 'dynamic'"),
        ({"rope_parameters": {**LINEAR, "twist": 1}}, UnsupportedModel, "twist is not supported"),
        ({"rope_scaling": [1]}, ModelFileError, "an object is needed"),
        ({"rope_scaling": {"type": 3}}, ModelFileError, "type is 3; a name"),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": ["1"]}},
            ModelFileError,
            "short_factor is '1'",
        ),
        (
            {
                "rope_scaling": {"type": "longrope", "short_factor": [1.0]},
                "original_max_position_embeddings": 1,
            },
            ModelFileError,
            "original_max_position_embeddings is 1",
        ),
    ],
)
def test_what_is_not_known_is_named(value: dict[str, Any], error: type[InputError], message: str) -> None:
    with pytest.raises(error, match=message):
        read_rope(value, 64)

"""Scaled rotary frequencies against their formulas, pair by pair."""

from __future__ import annotations

import json
from math import pi
from typing import Any

import numpy as np
import pytest

from kwaainet.errors import InputError, ModelFileError, UnsupportedModel
from kwaainet.formats.rope import RopeScaling, inverse_frequencies

LLAMA3 = RopeScaling("llama3", 8.0, 8192.0)


def test_linear_and_longrope_divide() -> None:
    plain = inverse_frequencies(10000.0, 8, None)
    np.testing.assert_allclose(plain, [1, 0.1, 0.01, 0.001])
    np.testing.assert_allclose(inverse_frequencies(10000.0, 8, RopeScaling("linear", 4.0)), plain / 4)
    long = RopeScaling("longrope", factors=(1.0, 2.0, 4.0, 8.0))
    np.testing.assert_allclose(inverse_frequencies(10000.0, 8, long), plain / [1, 2, 4, 8])


def test_llama3_keeps_short_waves_and_stretches_long_ones() -> None:
    plain = inverse_frequencies(500000.0, 128, None)
    scaled = inverse_frequencies(500000.0, 128, LLAMA3)
    kinds = set()
    for before, after in zip(plain, scaled, strict=True):
        wave = 2 * pi / before
        if wave < 8192 / 4:
            expected, kind = before, "short"
        elif wave > 8192 / 1:
            expected, kind = before / 8, "long"
        else:
            smooth = (8192 / wave - 1) / (4 - 1)
            expected, kind = (1 - smooth) * before / 8 + smooth * before, "between"
        kinds.add(kind)
        assert after == pytest.approx(expected, rel=1e-12)
    assert kinds == {"short", "between", "long"}


def test_json_round_trip_leaves_defaults_out() -> None:
    long = RopeScaling("longrope", attention_factor=1.19, factors=(1.0, 2.5))
    for scaling in (LLAMA3, long):
        assert RopeScaling.from_json(json.loads(json.dumps(scaling.to_json()))) == scaling
    assert set(LLAMA3.to_json()) == {"rope_type", "factor", "original_max_position_embeddings"}


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, UnsupportedModel, "'dynamic' is not supported"),
        ({"rope_type": "linear", "mscale": 1.0}, UnsupportedModel, "mscale is not known"),
        ({"rope_type": "linear", "factor": "4"}, ModelFileError, "factor is '4'"),
        ({"rope_type": "linear", "factor": 0.5}, ModelFileError, "factor 0.5 is below 1"),
        ({"rope_type": "linear", "factor": float("nan")}, ModelFileError, "not all between"),
        (
            {"rope_type": "llama3", "factor": 8.0},
            ModelFileError,
            "original_max_position_embeddings is missing",
        ),
        ({"rope_type": "longrope"}, ModelFileError, "a longrope needs factors"),
        ({"rope_type": "longrope", "factors": [0.0]}, ModelFileError, "not all sound"),
        ({"rope_type": "longrope", "factors": [1.0] * 4096}, ModelFileError, "4096 factors"),
        ([], ModelFileError, "not a JSON object"),
    ],
)
def test_what_is_not_sound_is_refused(value: Any, error: type[InputError], message: str) -> None:
    with pytest.raises(error, match=message):
        RopeScaling.from_json(value)


def test_factors_must_fit_the_heads() -> None:
    with pytest.raises(ModelFileError, match="2 factors do not fit 4 pairs"):
        inverse_frequencies(10000.0, 8, RopeScaling("longrope", factors=(1.0, 2.0)))

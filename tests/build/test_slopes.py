"""A line through samples: what grows is seen, what only scatters is not."""

from __future__ import annotations

import random

import pytest
from nightly.slopes import slope


def test_a_straight_line_is_found_exactly() -> None:
    found = slope(range(0, 7200, 10), [5 + second / 3600 for second in range(0, 7200, 10)])
    assert found.rate == pytest.approx(1.0)
    assert found.low == pytest.approx(1.0)
    assert not found.is_zero


def test_what_scatters_is_told_from_what_grows() -> None:
    chance = random.Random(1)
    noise = [chance.gauss(100, 5) for _ in range(3000)]
    seconds = list(range(3000))
    still = slope(seconds, noise)
    assert still.is_zero
    assert still.low < still.rate < still.high
    assert not slope(
        seconds, [value + second / 300 for value, second in zip(noise, seconds, strict=True)]
    ).is_zero
    assert slope(
        seconds, [value - second / 300 for value, second in zip(noise, seconds, strict=True)]
    ).is_zero


def test_too_few_samples_say_nothing() -> None:
    with pytest.raises(ValueError, match="3 samples"):
        slope([1, 2, 3], [1, 2, 3])

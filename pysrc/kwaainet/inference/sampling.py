"""Choosing the next token from logits: greedy, temperature, top-k and nucleus sampling.

Follows Holtzman et al. 2020 (nucleus sampling) and the order Hugging Face applies its warpers in
(temperature, top-k, top-p). Rule of the file: chance comes in as a number, so a run can be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..ports import Floats


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 switch those off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < 100.0:
            raise ConfigError(f"temperature is {self.temperature}; give a number from 0 (greedy) to 100")
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}; give 0 (off) or a number of tokens")
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"top_p is {self.top_p}; give a share above 0 and at most 1 (off)")


def probabilities(logits: Floats, sampling: Sampling) -> NDArray[np.float64]:
    """The distribution [vocab] that ``choose`` draws from, for a temperature above 0."""
    scaled = logits.astype(np.float64) / sampling.temperature
    if 0 < sampling.top_k < scaled.size:
        floor = np.partition(scaled, -sampling.top_k)[-sampling.top_k]
        scaled = np.where(scaled < floor, -np.inf, scaled)
    weights = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    if sampling.top_p < 1.0:
        order = np.argsort(-weights, kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        weights[order[before >= sampling.top_p]] = 0.0  # the token that crosses the line stays
        weights /= weights.sum()
    return np.asarray(weights, dtype=np.float64)


def choose(logits: Floats, sampling: Sampling, chance: float) -> int:
    """The next token id; logits [vocab], ``chance`` uniform in [0, 1) (unused when greedy)."""
    if sampling.temperature == 0.0:
        return int(np.argmax(logits))
    cumulative = np.cumsum(probabilities(logits, sampling))
    return min(int(np.searchsorted(cumulative, chance * cumulative[-1], side="right")), logits.size - 1)

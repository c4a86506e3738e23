"""How far apart the angles of a rotary embedding are, with the scalings that longer contexts have.

Follows ``transformers``' ``modeling_rope_utils.py`` (``ROPE_INIT_FUNCTIONS``), function by function.
Rule of the file: a scaling is a fixed change of the frequencies and of the tables' size; one that
depends on how long a text has become ("dynamic") cannot be used with a cache and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import floor, isfinite, log, pi
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError, UnsupportedModel

Frequencies: TypeAlias = NDArray[np.float64]

ROPE_TYPES = ("linear", "llama3", "yarn", "longrope")
MAX_FACTORS = 2048  # one for each pair of a head's numbers
_LARGEST = float(1 << 31)  # what any of the numbers may be


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """``rope_type`` as Hugging Face names it; the other fields matter to the types that have them.

    ``attention_factor`` multiplies the tables; ``factors`` divide the frequencies one by one (a
    "longrope", of which only the factors for short texts are kept).
    """

    rope_type: str
    factor: float = 1.0
    original_max_position_embeddings: float = 0.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.rope_type not in ROPE_TYPES:
            raise UnsupportedModel(
                f"rope scaling of type {self.rope_type!r:.80} is not supported; {', '.join(ROPE_TYPES)} are"
            )
        numbers = [getattr(self, field.name) for field in fields(self) if field.type == "float"]
        if not all(isfinite(number) and 0 <= number <= _LARGEST for number in numbers):
            raise ModelFileError(f"rope scaling: {numbers} are not all between 0 and {_LARGEST:g}")
        if not self.factor >= 1 or self.attention_factor == 0:
            raise ModelFileError(f"rope scaling: factor {self.factor!r} is below 1, or the attention's is 0")
        if self.rope_type in ("llama3", "yarn") and self.original_max_position_embeddings < 1:
            raise ModelFileError("rope scaling: original_max_position_embeddings is missing")
        if self.rope_type == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ModelFileError("rope scaling: low_freq_factor must be above 0 and below high_freq_factor")
        if self.rope_type == "yarn" and not 0 < self.beta_slow < self.beta_fast:
            raise ModelFileError("rope scaling: beta_slow must be above 0 and below beta_fast")
        if len(self.factors) > MAX_FACTORS or not all(1e-6 < one < _LARGEST for one in self.factors):
            raise ModelFileError(f"rope scaling: its {len(self.factors)} factors are not all sound")
        if bool(self.factors) != (self.rope_type == "longrope"):
            raise ModelFileError("rope scaling: a longrope needs factors, and nothing else has them")

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; fields that have their default are left out."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        defaults = {field.name: field.default for field in fields(self)}
        value = {name: item for name, item in named.items() if item != defaults[name]}
        return value | ({"factors": list(self.factors)} if self.factors else {})

    @classmethod
    def from_json(cls, value: Any) -> RopeScaling:
        """Inverse of ``to_json``; ``ModelFileError`` for anything else."""
        if not isinstance(value, dict) or not isinstance(value.get("rope_type"), str):
            raise ModelFileError(f"rope scaling: {value!r:.80} is not a JSON object with a rope_type")
        arguments: dict[str, Any] = {}
        for name, item in value.items():
            if name == "factors" and isinstance(item, list):
                arguments[name] = tuple(_number(name, each) for each in item)
            elif name in cls.__dataclass_fields__:
                arguments[name] = item if name == "rope_type" else _number(name, item)
            else:
                raise UnsupportedModel(f"rope scaling: {name:.80} is not known here")
        return cls(**arguments)


def _number(name: str, item: Any) -> float:
    if type(item) is float or (type(item) is int and abs(item) < 1 << 53):
        return float(item)
    raise ModelFileError(f"rope scaling: {name} is {item!r:.80}; a number is needed")


def inverse_frequencies(theta: float, dim: int, scaling: RopeScaling | None) -> Frequencies:
    """float64 [dim / 2], radians a position, of the pairs of ``dim`` numbers.

    ``ModelFileError`` if a longrope has not a factor for each pair.
    """
    plain = np.asarray(1.0 / theta ** (np.arange(0, dim, 2, dtype=np.float64) / dim))
    if scaling is None:
        return plain
    if scaling.rope_type == "linear":
        return plain / scaling.factor
    if scaling.rope_type == "llama3":
        return _llama3(plain, scaling)
    if scaling.rope_type == "yarn":
        return _yarn(plain, scaling, theta, dim)
    if len(scaling.factors) != len(plain):
        raise ModelFileError(f"rope scaling: {len(scaling.factors)} factors do not fit {len(plain)} pairs")
    return plain / np.asarray(scaling.factors, np.float64)


def _llama3(plain: Frequencies, scaling: RopeScaling) -> Frequencies:
    """Long waves are stretched, short ones are not, those between are in between."""
    turns = scaling.original_max_position_embeddings * plain / (2 * pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray((1 - kept) * plain / scaling.factor + kept * plain)


def _yarn(plain: Frequencies, scaling: RopeScaling, theta: float, dim: int) -> Frequencies:
    """A ramp over the pairs, from those that keep their frequency to those that are stretched."""

    def pair_of(turns: float) -> float:
        return dim * log(scaling.original_max_position_embeddings / (turns * 2 * pi)) / (2 * log(theta))

    low = max(floor(pair_of(scaling.beta_fast)), 0)
    high = min(-floor(-pair_of(scaling.beta_slow)), dim - 1)
    width = high - low or 0.001
    stretched = np.clip((np.arange(dim // 2) - low) / width, 0.0, 1.0)
    return np.asarray(plain / scaling.factor * stretched + plain * (1 - stretched))

"""The rotary embedding's settings in a ``config.json``, as old and new versions spell them.

Follows ``transformers``' ``modeling_rope_utils.py``: ``rope_theta`` and ``rope_scaling`` (with ``type`` or
``rope_type``) until 4.x, ``rope_parameters`` (for Gemma 3 one object a type of layer) since 5. Rule of the
file: a key that is not known changes the numbers, and is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, sqrt
from typing import Any

from ..errors import ModelFileError, UnsupportedModel
from .config import FULL, SLIDING, ModelConfig
from .config_json import integer, number, text
from .rope import RopeScaling

_PLAIN = ("default", "none")
_ALIASES = {"su": "longrope"}
_OUTER = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_FIELDS = {
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {"factor", "beta_fast", "beta_slow", "attention_factor", "original_max_position_embeddings"},
    "longrope": {"factor", "attention_factor", "original_max_position_embeddings"},
}
_LISTS = {"short_factor", "long_factor"}


@dataclass(frozen=True, slots=True)
class Rope:
    """What of ``ModelConfig`` these settings say; ``positions`` is its ``max_position_embeddings``."""

    theta: float
    scaling: RopeScaling | None
    local: float | None
    part: float
    positions: int


def read_rope(value: Mapping[str, Any], positions: int) -> Rope:
    """From ``config.json`` with its defaults; raises ``UnsupportedModel``, ``ModelFileError``."""
    local = number(value, "rope_local_base_freq", 0.0) or None
    parameters = _object(value, "rope_parameters")
    if FULL in parameters or SLIDING in parameters:
        local = number(_object(parameters, SLIDING), "rope_theta", local or 10000.0)
        parameters = _object(parameters, FULL)
    parameters = parameters or _object(value, "rope_scaling")
    theta = number(parameters, "rope_theta", number(value, "rope_theta", 10000.0))
    part = number(parameters, "partial_rotary_factor", number(value, "partial_rotary_factor", 1.0))
    kind = text(parameters, "rope_type", text(parameters, "type", "default"))
    kind = _ALIASES.get(kind, kind)
    if kind in _PLAIN:
        return Rope(theta, None, local, part, positions)
    if kind not in _FIELDS:
        raise UnsupportedModel(f"config.json: rope scaling of type {kind!r:.80} is not supported")
    if unknown := parameters.keys() - _OUTER - _FIELDS[kind] - (_LISTS if kind == "longrope" else set()):
        raise UnsupportedModel(f"config.json: rope scaling's {min(unknown):.80} is not supported")
    given = {key: number(parameters, key, 0.0) for key in _FIELDS[kind] if parameters.get(key) is not None}
    if kind == "longrope":
        return _longrope(value, parameters, given, Rope(theta, None, local, part, positions))
    if kind == "yarn":
        given.setdefault("original_max_position_embeddings", float(positions))
        given.setdefault("attention_factor", 0.1 * log(max(given.get("factor", 1.0), 1.0)) + 1)
    return Rope(theta, RopeScaling.from_json({"rope_type": kind, **given}), local, part, positions)


def _longrope(
    value: Mapping[str, Any], parameters: Mapping[str, Any], given: dict[str, float], plain: Rope
) -> Rope:
    """Up to the length it was trained for, where the factors for short texts hold; longer texts would
    turn what is in the cache by other angles."""
    original = integer(value, "original_max_position_embeddings", 0) or int(
        given.get("original_max_position_embeddings", plain.positions)
    )
    if original < 2:
        raise ModelFileError(f"config.json: original_max_position_embeddings is {original}")
    factors = parameters.get("short_factor")
    if not isinstance(factors, list) or not factors:
        raise ModelFileError(f"config.json: short_factor is {factors!r:.80}; a list of numbers is needed")
    factor = max(given.get("factor", plain.positions / original), 1.0)
    size = given.get("attention_factor") or sqrt(1 + log(factor) / log(original))
    short = tuple(number({"short_factor": one}, "short_factor", 0.0) for one in factors)
    scaling = RopeScaling("longrope", attention_factor=size, factors=short)
    return Rope(plain.theta, scaling, plain.local, plain.part, min(plain.positions, original))


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """The keys of ``config.json``, spelt as 4.x does, which newer versions read too."""
    written: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_scaling": None}
    if config.partial_rotary_factor != 1.0:
        written["partial_rotary_factor"] = config.partial_rotary_factor
    if config.rope_local_base_freq is not None:
        written["rope_local_base_freq"] = config.rope_local_base_freq
    scaling = config.rope_scaling
    if scaling is None:
        return written
    rope = {key: getattr(scaling, key) for key in _FIELDS[scaling.rope_type]}
    if scaling.rope_type == "longrope":
        factors, positions = list(scaling.factors), config.max_position_embeddings
        written["original_max_position_embeddings"] = positions
        rope |= {"short_factor": factors, "long_factor": factors}
        rope |= {"original_max_position_embeddings": positions}
    elif "original_max_position_embeddings" in rope:
        rope["original_max_position_embeddings"] = int(scaling.original_max_position_embeddings)
    written["rope_scaling"] = {"rope_type": scaling.rope_type, "type": scaling.rope_type, **rope}
    return written


def _object(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    item = value.get(key)
    if item is None:
        return {}
    if not isinstance(item, dict):
        raise ModelFileError(f"config.json: {key} is {item!r:.80}; an object is needed")
    return item

"""Hugging Face's ``config.json`` and tensor names of Llama models, both ways.

Follows ``transformers``' ``LlamaConfig``: its defaults are used for the keys it may leave out. Rule
of the file: what changes the numbers a model computes is either understood or refused by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import ModelFileError, UnsupportedModel
from .config import LM_HEAD, ModelConfig
from .manifest import TensorEntry
from .stored import StoredTensor

ARCHITECTURE = "LlamaForCausalLM"
_BUFFER = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")  # older exports keep it


def read_config(value: Mapping[str, Any]) -> ModelConfig:
    """From the object in ``config.json``. ``UnsupportedModel`` names another model type or a
    feature not known here; ``ModelFileError`` a key that is missing or has a wrong value."""
    if value.get("model_type") != "llama":
        raise UnsupportedModel(f"model_type is {value.get('model_type')!r:.80}; only 'llama' is supported")
    rope = _rope(value)
    for key, plain in (
        ("hidden_act", "silu"),
        ("attention_bias", False),
        ("mlp_bias", False),
        ("quantization_config", None),
        ("partial_rotary_factor", 1.0),
    ):
        if value.get(key, plain) not in (plain, None):
            raise UnsupportedModel(f"config.json: {key} is {value[key]!r:.80}; only {plain!r} is supported")
    heads, hidden = _integer(value, "num_attention_heads"), _integer(value, "hidden_size")
    if heads < 1 or (hidden % heads and not value.get("head_dim")):
        raise ModelFileError(f"config.json: hidden_size {hidden} does not divide among {heads} heads")
    return ModelConfig(
        num_hidden_layers=_integer(value, "num_hidden_layers"),
        hidden_size=hidden,
        intermediate_size=_integer(value, "intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=_integer(value, "num_key_value_heads", heads),
        head_dim=_integer(value, "head_dim", hidden // heads),
        vocab_size=_integer(value, "vocab_size"),
        max_position_embeddings=_integer(value, "max_position_embeddings", 2048),
        rms_norm_eps=_float(value, "rms_norm_eps", 1e-6),
        rope_theta=_float(value, "rope_theta", _float(rope, "rope_theta", 10000.0)),
        tie_word_embeddings=value.get("tie_word_embeddings") is True,
        bos_token_id=_token(value, "bos_token_id"),
        eos_token_id=_token(value, "eos_token_id"),
    )


def write_config(config: ModelConfig) -> dict[str, Any]:
    """``config.json`` of a float32 copy with its own head, for old and new ``transformers`` alike."""
    fields = config.to_json() | {"tie_word_embeddings": False}
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "torch_dtype": "float32",
        "use_cache": True,
        **fields,
    }


def read_tensors(
    tensors: Mapping[str, StoredTensor], file: str, config: ModelConfig
) -> dict[str, TensorEntry]:
    """The model's tensors in ``file``, not hashed yet; others that matter are ``UnsupportedModel``."""
    wanted = config.tensor_shapes()
    entries: dict[str, TensorEntry] = {}
    for name, tensor in tensors.items():
        if name in wanted:
            tensor.check_weight(name)
            entries[name] = TensorEntry(file, tensor.offset, tensor.length, "", tensor.dtype, tensor.shape)
        elif not _BUFFER.fullmatch(name) and name != LM_HEAD:  # a tied head may be stored, and is not used
            raise UnsupportedModel(
                f"tensor {name:.80} does not belong to the model that config.json describes"
            )
    return entries


def _rope(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object in which newer configs keep the rotary embedding's settings."""
    for key in ("rope_scaling", "rope_parameters"):
        rope = value.get(key)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise ModelFileError(f"config.json: {key} is {rope!r:.80}; an object is needed")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise UnsupportedModel(f"config.json: {key} is {rope!r:.80}, which is not supported")
        if key == "rope_parameters":
            return rope
    return {}


def _integer(value: Mapping[str, Any], key: str, default: int | None = None) -> int:
    item = value.get(key)
    item = default if item is None else item
    if item is None:
        raise ModelFileError(f"config.json: {key} is missing")
    if type(item) is not int:
        raise ModelFileError(f"config.json: {key} is {item!r:.80}; an integer is needed")
    return item


def _float(value: Mapping[str, Any], key: str, default: float) -> float:
    item = value.get(key)
    item = default if item is None else item
    if isinstance(item, bool) or not isinstance(item, int | float):
        raise ModelFileError(f"config.json: {key} is {item!r:.80}; a number is needed")
    try:
        return float(item)
    except OverflowError:
        raise ModelFileError(f"config.json: {key} is too large for a number") from None


def _token(value: Mapping[str, Any], key: str) -> int | None:
    item = value.get(key)
    if isinstance(item, list) and item:
        item = item[0]  # several tokens may end a text; the rest is generation_config's business
    return item if type(item) is int else None

"""Hugging Face's ``config.json`` and tensor names, both ways.

Follows ``transformers``' config classes: their defaults (``architectures``) are used for the keys that a
file may leave out. Rule of the file: what changes the numbers a model computes is either understood or
refused by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import ModelFileError, UnsupportedModel
from .architectures import ARCHITECTURES, architecture
from .config import FULL, LM_HEAD, SLIDING, ModelConfig
from .config_json import integer, number, text, token
from .huggingface_rope import read_rope, write_rope
from .manifest import TensorEntry
from .stored import StoredTensor

_BUFFER = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")  # older exports keep it
_MUST_BE: tuple[tuple[str, Any], ...] = (
    ("attention_bias", False),
    ("mlp_bias", False),
    ("quantization_config", None),
    ("use_bidirectional_attention", False),
)
_NUMBERS = ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping")


def read_config(value: Mapping[str, Any]) -> ModelConfig:
    """From the object in ``config.json``. ``UnsupportedModel`` names another model type or a
    feature not known here; ``ModelFileError`` a key that is missing or has a wrong value."""
    row = architecture(value.get("model_type"), "model_type")
    value = {**row.defaults, **value}
    for key, plain in _MUST_BE:
        if value.get(key, plain) not in (plain, None):
            raise UnsupportedModel(f"config.json: {key} is {value[key]!r:.80}; only {plain!r} is supported")
    heads, hidden = integer(value, "num_attention_heads"), integer(value, "hidden_size")
    if heads < 1 or (hidden % heads and not value.get("head_dim")):
        raise ModelFileError(f"config.json: hidden_size {hidden} does not divide among {heads} heads")
    layers = integer(value, "num_hidden_layers")
    positions = integer(value, "max_position_embeddings", 2048)
    rope = read_rope(value, positions)
    return ModelConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=integer(value, "intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=integer(value, "num_key_value_heads", heads),
        head_dim=integer(value, "head_dim", hidden // heads),
        vocab_size=integer(value, "vocab_size"),
        max_position_embeddings=rope.positions,
        rms_norm_eps=number(value, "rms_norm_eps", 1e-6),
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        rope_local_base_freq=rope.local,
        partial_rotary_factor=rope.part,
        tie_word_embeddings=value.get("tie_word_embeddings") is True,
        bos_token_id=token(value, "bos_token_id"),
        eos_token_id=token(value, "eos_token_id"),
        architecture=value["model_type"],
        hidden_act=text(value, "hidden_activation", text(value, "hidden_act", "silu")),
        embedding_scale=hidden**0.5 if row.fixed.get("norm_offset") else 1.0,
        num_local_experts=integer(value, "num_local_experts", 0),
        num_experts_per_tok=integer(value, "num_experts_per_tok", 0),
        **_optional(value, layers),
        **row.fixed,
    )


def _optional(value: Mapping[str, Any], layers: int) -> dict[str, Any]:
    numbers = {key: number(value, key, 0.0) for key in _NUMBERS if value.get(key) is not None}
    return {**numbers, **_windows(value, layers)}


def _windows(value: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """``sliding_window`` and ``layer_types``, however this and earlier versions spell them."""
    window = value.get("sliding_window")
    every = ARCHITECTURES[value["model_type"]].every
    if window is None or (value["model_type"].startswith("qwen") and not value.get("use_sliding_window")):
        return {}
    types = value.get("layer_types")
    if types is None and every:
        every = integer(value, "sliding_window_pattern", every)
        types = [FULL if every > 0 and (index + 1) % every == 0 else SLIDING for index in range(layers)]
    elif types is None and "max_window_layers" in value:
        first = integer(value, "max_window_layers")
        types = [SLIDING if index >= first else FULL for index in range(layers)]
    if types is not None and not (isinstance(types, list) and all(isinstance(kind, str) for kind in types)):
        raise ModelFileError(f"config.json: layer_types is {types!r:.80}; a list of names is needed")
    return {"sliding_window": integer(value, "sliding_window"), "layer_types": tuple(types or ())}


def write_config(config: ModelConfig) -> dict[str, Any]:
    """``config.json`` of a float32 copy, for old and new ``transformers`` alike."""
    row = architecture(config.architecture, "the architecture")
    sizes = {key: item for key, item in config.to_json().items() if key in _WRITTEN.split()}
    written: dict[str, Any] = {
        "architectures": [row.class_name],
        "model_type": config.architecture,
        "hidden_act": config.hidden_act,
        "hidden_activation": config.hidden_act,
        "attention_bias": False,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "torch_dtype": "float32",
        "use_cache": True,
        "sliding_window": config.sliding_window,
        **sizes,
        **write_rope(config),
        "tie_word_embeddings": config.tie_word_embeddings,
    }
    if config.architecture.startswith("qwen"):
        full = (
            config.layer_types.index(SLIDING) if SLIDING in config.layer_types else config.num_hidden_layers
        )
        written |= {"use_sliding_window": config.sliding_window is not None, "max_window_layers": full}
    return written


_WRITTEN = """num_hidden_layers hidden_size intermediate_size num_attention_heads num_key_value_heads head_dim
    vocab_size max_position_embeddings rms_norm_eps bos_token_id eos_token_id num_local_experts
    num_experts_per_tok layer_types query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping"""


def written_offset(config: ModelConfig) -> float:
    """What to add to the weights of norms, as ``config``'s files hold them, in files of Hugging Face's."""
    row = architecture(config.architecture, "the architecture")
    return config.norm_offset - float(row.fixed.get("norm_offset", 0.0))


def read_tensors(
    tensors: Mapping[str, StoredTensor], file: str, config: ModelConfig
) -> dict[str, TensorEntry]:
    """The model's tensors in ``file``, not hashed yet; others that matter are ``UnsupportedModel``."""
    wanted = config.tensor_shapes()
    entries: dict[str, TensorEntry] = {}
    for name, tensor in tensors.items():
        if name in wanted:
            tensor.check_weight(name)
            place = file, tensor.offset, tensor.length
            entries[name] = TensorEntry(*place, "", tensor.dtype, tensor.shape, strides=tensor.strides)
        elif not _BUFFER.fullmatch(name) and name != LM_HEAD:  # a tied head may be stored, and is not used
            raise UnsupportedModel(
                f"tensor {name:.80} does not belong to the model that config.json describes"
            )
    return entries

"""A model's settings in GGUF's words: what ``gguf_llama.read_config`` reads, written.

Follows llama.cpp's ``convert_hf_to_gguf.py`` and ``gguf-py/gguf/constants.py``. Rule of the file: it writes
what it can; that a file says all that matters, whoever writes one checks by reading it back.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..ports import Floats
from .config import ModelConfig
from .gguf_names import ROPE_FACTORS, UNUSED_FACTORS, gguf_architecture
from .gguf_writer import Value
from .rope import RopeScaling, inverse_frequencies


def write_config(config: ModelConfig) -> dict[str, Value]:
    """``general.architecture`` and the keys under its name."""
    name = gguf_architecture(config)
    settings = {**_sizes(config), **_scaling(config), **_own(config)}
    known = {f"{name}.{key}": value for key, value in settings.items() if value is not None}
    return {"general.architecture": name, **known}


def rope_factors(config: ModelConfig) -> dict[str, Floats]:
    """The tensors, float32 [rotary dim / 2], that divide the frequencies of the rotary embedding."""
    scaling = config.rope_scaling
    if scaling is None or scaling.rope_type not in ("llama3", "longrope"):
        return {}
    if scaling.rope_type == "longrope":
        numbers = np.asarray(scaling.factors, np.float32)
        return {ROPE_FACTORS[1]: numbers, UNUSED_FACTORS: numbers}  # the length written is the short one's
    plain, turned = (_frequencies(config, one) for one in (None, scaling))
    return {ROPE_FACTORS[0]: (plain / turned).astype(np.float32)}


def as_read(config: ModelConfig) -> ModelConfig:
    """What reading a GGUF file of ``config`` gives: norms have their offset in them there, a Mistral that
    sees all positions is a Llama, and a long rope's numbers are those of float32."""
    name = config.architecture
    if name == "mistral" and config.sliding_window is None:
        name = "llama"
    scaling = config.rope_scaling
    if scaling is not None and scaling.rope_type == "longrope":
        short = tuple(float(f"{factor:.7g}") for factor in scaling.factors)
        size = float(f"{scaling.attention_factor:.7g}")
        scaling = replace(scaling, factors=short, attention_factor=size)
    return replace(config, norm_offset=0.0, architecture=name, rope_scaling=scaling)


def _frequencies(config: ModelConfig, scaling: RopeScaling | None) -> Floats:
    return np.asarray(inverse_frequencies(config.rope_theta, config.rotary_dim, scaling))


def _sizes(config: ModelConfig) -> dict[str, Value | None]:
    return {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": config.rotary_dim,
        "rope.freq_base": float(config.rope_theta),
        "vocab_size": config.vocab_size,
    }


def _scaling(config: ModelConfig) -> dict[str, Value | None]:
    scaling = config.rope_scaling
    if scaling is None or scaling.rope_type == "llama3":  # which is a tensor of factors
        return {}
    original = {"rope.scaling.original_context_length": int(scaling.original_max_position_embeddings)}
    if scaling.rope_type == "longrope":
        original = {"rope.scaling.original_context_length": config.max_position_embeddings}
        return {**original, "rope.scaling.attn_factor": float(scaling.attention_factor)}
    written: dict[str, Value | None] = {
        "rope.scaling.type": scaling.rope_type,
        "rope.scaling.factor": float(scaling.factor),
    }
    return written | original if scaling.rope_type == "yarn" else written


def _own(config: ModelConfig) -> dict[str, Value | None]:
    """What only some architectures have; ``None`` is left out."""
    gemma = config.post_norms
    return {
        "attention.sliding_window": config.sliding_window,
        "expert_count": config.num_local_experts or None,
        "expert_used_count": config.num_experts_per_tok or None,
        "attn_logit_softcapping": (config.attn_logit_softcapping or 0.0) if gemma else None,
        "final_logit_softcapping": (config.final_logit_softcapping or 0.0) if gemma else None,
        "rope.freq_base_swa": config.rope_local_base_freq,
    }

"""The architectures served here, a row each: what makes one differ from Llama.

Follows ``transformers``' model and config classes of these names. Rule of the file: only tables; what a
model's own ``config.json`` or GGUF metadata says is read by ``huggingface`` and ``gguf_llama``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class Architecture:
    """``fixed`` are fields of ``ModelConfig``; ``defaults`` are what Hugging Face's config class takes
    for keys of ``config.json`` that are left out; ``every`` is the n of "each n-th block sees all"."""

    class_name: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    every: int | None = None


_GEMMA = {"post_norms": True, "norm_offset": 1.0}
_GEMMA_DEFAULTS = {
    "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
_CAPPED = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}

ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("LlamaForCausalLM", defaults={"max_position_embeddings": 2048}),
    "mistral": Architecture("MistralForCausalLM", defaults={"sliding_window": 4096}),
    "mixtral": Architecture(
        "MixtralForCausalLM",
        defaults={
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
        },
    ),
    "qwen2": Architecture("Qwen2ForCausalLM", {"qkv_bias": True}, {"max_window_layers": 28}),
    "qwen3": Architecture("Qwen3ForCausalLM", {"qk_norm": True}, {"head_dim": 128, "max_window_layers": 28}),
    "phi3": Architecture("Phi3ForCausalLM", {"packed_projections": True}, {"rms_norm_eps": 1e-5}),
    "gemma2": Architecture("Gemma2ForCausalLM", _GEMMA, {**_GEMMA_DEFAULTS, **_CAPPED}, 2),
    "gemma3_text": Architecture(
        "Gemma3ForCausalLM",
        {**_GEMMA, "qk_norm": True},
        {**_GEMMA_DEFAULTS, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6},
        6,
    ),
}


def architecture(name: object, what: str) -> Architecture:
    """The row of ``name``; ``UnsupportedModel`` names one that is not known, found as ``what``."""
    row = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if row is None:
        raise UnsupportedModel(f"{what} is {name!r:.80}; supported are {', '.join(ARCHITECTURES)}")
    return row

"""The names of tensors in GGUF files and in Hugging Face's, both ways.

Follows ``gguf-py/gguf/constants.py`` and ``tensor_mapping.py``. Rule of the file: tables, by
``general.architecture``; one row serves reading and writing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import UnsupportedModel
from .config import EMBED, LM_HEAD, NORM, ModelConfig, block_name

OUTER = {"token_embd.weight": EMBED, "output_norm.weight": NORM, "output.weight": LM_HEAD}
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight")  # divide the frequencies, where there are
UNUSED_FACTORS = "rope_factors_long.weight"  # texts longer than the model was trained for are not served
PERMUTED = ("attn_q.weight", "attn_k.weight")  # of the llama architecture alone
EXPERTS = {"gate": "w1", "down": "w2", "up": "w3"}
_BLOCK = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_HEAD_NORMS = {
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
}
_POST_NORMS = {
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
}
_OWN: Mapping[str, Mapping[str, str]] = {  # what differs from _BLOCK
    "llama": {"ffn_gate_inp.weight": "block_sparse_moe.gate.weight"},
    "qwen2": {f"attn_{one}.bias": f"self_attn.{one}_proj.bias" for one in "qkv"},
    "qwen3": _HEAD_NORMS,
    "phi3": {"attn_qkv.weight": "self_attn.qkv_proj.weight", "ffn_up.weight": "mlp.gate_up_proj.weight"},
    "gemma2": _POST_NORMS,
    "gemma3": {**_POST_NORMS, **_HEAD_NORMS},
}
ARCHITECTURES = tuple(_OWN)
HUGGING_FACE = {"gemma3": "gemma3_text"}  # where the two name an architecture differently
_GGUF = {"gemma3_text": "gemma3", "mistral": "llama", "mixtral": "llama"}
_TIED = ("gemma2",)  # llama.cpp would leave the head out
_EXPERT = re.compile(r"block_sparse_moe\.experts\.\d+\.(w[123])\.weight")


def gguf_architecture(config: ModelConfig) -> str:
    """``general.architecture`` of a model's GGUF file."""
    return _GGUF.get(config.architecture, config.architecture)


def block_names(name: str) -> dict[str, str]:
    """Hugging Face's suffix by GGUF's, of the blocks of ``general.architecture``; experts aside."""
    return {**_BLOCK, **_OWN.get(name, {})}


def stored_tensors(config: ModelConfig) -> dict[str, list[str]]:
    """The tensors of a model's GGUF file, and which of Hugging Face's each holds, one after another.

    Raises ``UnsupportedModel`` for a tensor that the files of its architecture have no name for.
    """
    outer = {full: name for name, full in OUTER.items()}
    suffixes = {full: name for name, full in block_names(gguf_architecture(config)).items()}
    experts = {letter: f"ffn_{name}_exps.weight" for name, letter in EXPERTS.items()}
    stored: dict[str, list[str]] = {outer[EMBED]: [EMBED]}
    for index in range(config.num_hidden_layers):
        for suffix in config.block_shapes():
            expert = _EXPERT.fullmatch(suffix)
            name = experts[expert[1]] if expert else suffixes.get(suffix)
            if name is None:
                raise UnsupportedModel(
                    f"tensor {suffix} has no name in GGUF files of {gguf_architecture(config)}"
                )
            stored.setdefault(f"blk.{index}.{name}", []).append(block_name(index, suffix))
    if not config.tie_word_embeddings and gguf_architecture(config) in _TIED:
        raise UnsupportedModel(f"GGUF files of {gguf_architecture(config)} have no head beside the embedding")
    last = [NORM] if config.tie_word_embeddings else [NORM, LM_HEAD]
    return stored | {outer[name]: [name] for name in last}

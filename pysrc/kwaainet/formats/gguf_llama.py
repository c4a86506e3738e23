"""What a GGUF file of the ``llama`` architecture says, in Hugging Face's words.

Follows llama.cpp's ``convert_hf_to_gguf.py`` and ``gguf-py/gguf/constants.py``. Rule of the file:
what changes the numbers a model computes is either understood here or refused by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import ModelFileError, UnsupportedModel
from .config import EMBED, LM_HEAD, NORM, ModelConfig, block_name
from .gguf import GgufIndex
from .manifest import TensorEntry

_OUTER = {"token_embd.weight": EMBED, "output_norm.weight": NORM, "output.weight": LM_HEAD}
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
_PERMUTED = ("attn_q.weight", "attn_k.weight")
_BLOCK_NAME = re.compile(r"blk\.(0|[1-9][0-9]{0,3})\.(.+)", re.DOTALL)
_REFUSED = {  # key -> the values that mean "absent"
    "expert_count": (0,),
    "rope.scaling.type": ("none",),
    "rope.scale_linear": (1.0,),
    "attention.sliding_window": (0,),
    "logit_scale": (0.0, 1.0),
}


def read_config(index: GgufIndex) -> ModelConfig:
    """The model's sizes. ``UnsupportedModel`` names another architecture or a feature not known
    here; ``ModelFileError`` names a key that is missing or has a wrong value."""
    architecture = index.metadata.get("general.architecture")
    if architecture != "llama":
        raise UnsupportedModel(f"the architecture is {architecture!r:.80}; only 'llama' is supported")
    get = _Keys(index.metadata)
    for key, neutral in _REFUSED.items():
        value = index.metadata.get(f"llama.{key}")
        if value is not None and value not in neutral:
            raise UnsupportedModel(f"llama.{key} is {value!r:.80}, which is not supported")
    if "token_embd.weight" not in index.tensors:
        raise ModelFileError("the GGUF file has no tensor token_embd.weight; is it a part of a split model?")
    hidden, heads = get.integer("embedding_length"), get.integer("attention.head_count")
    if heads < 1 or (hidden % heads and "llama.attention.key_length" not in index.metadata):
        raise ModelFileError(f"{hidden} numbers do not divide among {heads} attention heads")
    head_dim = get.integer("attention.key_length", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if get.integer(key, head_dim) != head_dim:
            raise UnsupportedModel(f"llama.{key} is not the heads' size {head_dim}, which is not supported")
    vocabulary = index.tensors["token_embd.weight"].shape[0]
    return ModelConfig(
        num_hidden_layers=get.integer("block_count"),
        hidden_size=hidden,
        intermediate_size=get.integer("feed_forward_length"),
        num_attention_heads=heads,
        num_key_value_heads=get.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        vocab_size=vocabulary,
        max_position_embeddings=get.integer("context_length"),
        rms_norm_eps=get.shortest("attention.layer_norm_rms_epsilon"),
        rope_theta=get.shortest("rope.freq_base", 10000.0),
        tie_word_embeddings="output.weight" not in index.tensors,
        bos_token_id=_token(index.metadata, "bos", vocabulary),
        eos_token_id=_token(index.metadata, "eos", vocabulary),
    )


def read_tensors(index: GgufIndex, file: str) -> dict[str, TensorEntry]:
    """The tensors under Hugging Face's names, not hashed yet. ``UnsupportedModel`` names a tensor
    that a plain Llama does not have (biases, experts, rotary factors)."""
    entries: dict[str, TensorEntry] = {}
    for name, tensor in index.tensors.items():
        match = _BLOCK_NAME.fullmatch(name)
        suffix = match[2] if match else ""
        canonical = _OUTER.get(name)
        if match and suffix in _BLOCK:
            canonical = block_name(int(match[1]), _BLOCK[suffix])
        if canonical is None:
            raise UnsupportedModel(f"tensor {name:.80} does not belong to a plain Llama model")
        entries[canonical] = TensorEntry(
            tensor.file or file,
            tensor.offset,
            tensor.length,
            "",
            tensor.dtype,
            tensor.shape,
            suffix in _PERMUTED,
        )
    return entries


def _token(metadata: Mapping[str, Any], which: str, vocabulary: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{which}_token_id")
    return value if type(value) is int and 0 <= value < vocabulary else None


class _Keys:
    """Typed look-ups of ``llama.*`` metadata."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._metadata.get(f"llama.{key}", default)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]  # one number a block, all alike
        if type(value) is not int:
            raise ModelFileError(f"GGUF metadata: llama.{key} is {value!r:.80}; an integer is needed")
        return value

    def shortest(self, key: str, default: float | None = None) -> float:
        """A float32 of the file as the decimal number it was made from: 1e-05, not 9.99999975e-06."""
        value = self._metadata.get(f"llama.{key}", default)
        if type(value) is not float:
            raise ModelFileError(f"GGUF metadata: llama.{key} is {value!r:.80}; a float is needed")
        return float(f"{value:.7g}")

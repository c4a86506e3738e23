"""What a GGUF file of a model says, in Hugging Face's words.

Follows llama.cpp's ``convert_hf_to_gguf.py``, ``gguf-py/gguf/constants.py`` and, where a number is in no
file (Gemma's scales), ``llama-model.cpp``. Rule of the file: what changes the numbers a model computes is
either understood here or refused by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import ModelFileError, UnsupportedModel
from ..ports import Floats
from .architectures import architecture
from .config import FULL, SLIDING, ModelConfig, block_name
from .gguf import GgufIndex, GgufTensor
from .gguf_names import (
    ARCHITECTURES,
    EXPERTS,
    HUGGING_FACE,
    OUTER,
    PERMUTED,
    ROPE_FACTORS,
    UNUSED_FACTORS,
    block_names,
)
from .manifest import TensorEntry
from .rope import RopeScaling, inverse_frequencies

_BLOCK_NAME = re.compile(r"blk\.(0|[1-9][0-9]{0,3})\.(.+)", re.DOTALL)
_ALL_EXPERTS = re.compile(r"ffn_(gate|down|up)_exps\.weight")
_ONE_EXPERT = re.compile(r"ffn_(gate|down|up)\.(0|[1-9][0-9]{0,2})\.weight")  # until 2024
_REFUSED = {"rope.scale_linear": (1.0,), "logit_scale": (0.0, 1.0)}  # key -> the values that mean "absent"
_GEMMA_27B = {"gemma2": 46, "gemma3": 62}  # blocks of the one size whose scores are scaled differently
_GEMMA_CAPS = {"gemma2": (50.0, 30.0)}


def read_config(index: GgufIndex, factors: Floats | None = None) -> ModelConfig:
    """The model's sizes. ``UnsupportedModel`` names another architecture or a feature not known
    here; ``ModelFileError`` names a key that is missing or has a wrong value.

    ``factors`` are the numbers of the one of ``ROPE_FACTORS`` that the file has, if any.
    """
    name = index.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UnsupportedModel(f"the GGUF architecture is {name!r:.80}; supported are {known}")
    if factors is None and not index.tensors.keys().isdisjoint(ROPE_FACTORS):
        raise ModelFileError("the factors of the rotary embedding, a tensor of the GGUF file, were not read")
    get = _Keys(name, index.metadata)
    for key, neutral in _REFUSED.items():
        value = index.metadata.get(f"{name}.{key}")
        if value is not None and value not in neutral:
            raise UnsupportedModel(f"{name}.{key} is {value!r:.80}, which is not supported")
    if "token_embd.weight" not in index.tensors:
        raise ModelFileError("the GGUF file has no tensor token_embd.weight; is it a part of a split model?")
    hidden, heads = get.integer("embedding_length"), get.integer("attention.head_count")
    if heads < 1 or (hidden % heads and f"{name}.attention.key_length" not in index.metadata):
        raise ModelFileError(f"{hidden} numbers do not divide among {heads} attention heads")
    head_dim = get.integer("attention.key_length", hidden // heads)
    turned = get.integer("rope.dimension_count", head_dim)
    for key, size in (("attention.value_length", get.integer("attention.value_length", head_dim)),
                      ("rope.dimension_count", head_dim if name == "phi3" else turned)):  # fmt: skip
        if size != head_dim or head_dim < 1:
            raise UnsupportedModel(f"{name}.{key} is not the heads' size {head_dim}, which is not supported")
    layers, theta = get.integer("block_count"), get.shortest("rope.freq_base", 10000.0)
    scaling, positions = _scaling(get, theta, turned, factors)
    vocabulary = index.tensors["token_embd.weight"].shape[0]
    return ModelConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=get.integer("feed_forward_length"),
        num_attention_heads=heads,
        num_key_value_heads=get.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        vocab_size=vocabulary,
        max_position_embeddings=positions,
        rms_norm_eps=get.shortest("attention.layer_norm_rms_epsilon"),
        rope_theta=theta,
        rope_scaling=scaling,
        partial_rotary_factor=turned / head_dim,
        tie_word_embeddings="output.weight" not in index.tensors,
        bos_token_id=_token(index.metadata, "bos", vocabulary),
        eos_token_id=_token(index.metadata, "eos", vocabulary),
        **_own(name, get, layers),
        **_gemma(name, get, layers, hidden, hidden // heads),
    )


def _own(name: str, get: _Keys, layers: int) -> dict[str, Any]:
    """What the architecture's row and a few keys of its own say; norms are stored with their offset."""
    window, experts = get.integer("attention.sliding_window", 0), get.integer("expert_count", 0)
    model_type = HUGGING_FACE.get(name, name)
    if name == "llama":
        model_type = "mixtral" if experts else "mistral" if window else "llama"
    row = architecture(model_type, "the architecture")
    own: dict[str, Any] = {**row.fixed, "norm_offset": 0.0, "architecture": model_type}
    if experts:
        own |= {"num_local_experts": experts, "num_experts_per_tok": get.integer("expert_used_count")}
    if window:
        own["sliding_window"] = window
    if window and row.every:
        kinds = (FULL if (index + 1) % row.every == 0 else SLIDING for index in range(layers))
        own["layer_types"] = tuple(kinds)
    return own


def _gemma(name: str, get: _Keys, layers: int, hidden: int, per_head: int) -> dict[str, Any]:
    if not name.startswith("gemma"):
        return {}
    caps = _GEMMA_CAPS.get(name, (0.0, 0.0))
    scaled = layers == _GEMMA_27B[name]
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "embedding_scale": hidden**0.5,
        "query_pre_attn_scalar": float(per_head if scaled else get.integer("attention.key_length", per_head)),
        "attn_logit_softcapping": get.shortest("attn_logit_softcapping", caps[0]) or None,
        "final_logit_softcapping": get.shortest("final_logit_softcapping", caps[1]) or None,
        "rope_local_base_freq": get.shortest("rope.freq_base_swa", 10000.0) if name == "gemma3" else None,
    }


def _scaling(get: _Keys, theta: float, turned: int, factors: Floats | None) -> tuple[RopeScaling | None, int]:
    """The scaling, and how many positions it is good for."""
    positions, kind = get.integer("context_length"), get.text("rope.scaling.type", "none")
    original = get.integer("rope.scaling.original_context_length", positions)
    if factors is not None:
        attention = get.shortest("rope.scaling.attn_factor", 1.0)
        numbers = tuple(float(f"{factor:.7g}") for factor in factors)
        scaling = RopeScaling("longrope", attention_factor=attention, factors=numbers)
        if kind == "longrope":
            return scaling, min(original, positions)
        return _llama3(scaling, theta, turned) or scaling, positions
    if kind == "none":
        return None, positions
    factor = get.shortest("rope.scaling.factor")
    if kind == "linear":
        return RopeScaling("linear", factor), positions
    if kind == "yarn":
        attention = 0.1 * float(np.log(max(factor, 1.0))) + 1
        return RopeScaling("yarn", factor, float(original), attention_factor=attention), positions
    raise UnsupportedModel(f"{get.name}.rope.scaling.type is {kind!r:.80}, which is not supported")


def _llama3(scaling: RopeScaling, theta: float, turned: int) -> RopeScaling | None:
    """The settings of Llama 3.x that make these factors; other converters' factors stay what they are."""
    if turned != 2 * len(scaling.factors) or max(scaling.factors) <= 1:
        return None
    likely = RopeScaling("llama3", max(scaling.factors), 8192.0)
    made = inverse_frequencies(theta, turned, None) / inverse_frequencies(theta, turned, likely)
    return likely if np.allclose(made, scaling.factors, rtol=1e-5) else None


def read_tensors(index: GgufIndex, file: str) -> dict[str, TensorEntry]:
    """The tensors under Hugging Face's names, not hashed yet. ``UnsupportedModel`` names a tensor
    that models of the file's architecture do not have."""
    name = str(index.metadata.get("general.architecture"))
    known = block_names(name)
    entries: dict[str, TensorEntry] = {}
    for stored, tensor in index.tensors.items():
        match = _BLOCK_NAME.fullmatch(stored)
        suffix = match[2] if match else ""
        if match and suffix in known:
            permuted = name == "llama" and suffix in PERMUTED
            entries[block_name(int(match[1]), known[suffix])] = _entry(tensor, file, permuted)
        elif match and name == "llama" and _is_expert(suffix):
            entries.update(_experts(int(match[1]), suffix, tensor, file))
        elif stored in OUTER:
            entries[OUTER[stored]] = _entry(tensor, file)
        elif stored not in (*ROPE_FACTORS, UNUSED_FACTORS):
            raise UnsupportedModel(f"tensor {stored:.80} does not belong to a plain {name:.80} model")
    return entries


def _entry(tensor: GgufTensor, file: str, permuted: bool = False) -> TensorEntry:
    place = tensor.file or file, tensor.offset, tensor.length
    return TensorEntry(*place, "", tensor.dtype, tensor.shape, permuted)


def _is_expert(suffix: str) -> bool:
    return bool(_ALL_EXPERTS.fullmatch(suffix) or _ONE_EXPERT.fullmatch(suffix))


def _experts(index: int, suffix: str, tensor: GgufTensor, file: str) -> Iterator[tuple[str, TensorEntry]]:
    """A tensor of one expert, or each part of one of all experts [experts, out, in]."""
    one = _ONE_EXPERT.fullmatch(suffix)
    if one:
        name = f"block_sparse_moe.experts.{one[2]}.{EXPERTS[one[1]]}.weight"
        yield block_name(index, name), _entry(tensor, file)
        return
    kind = _ALL_EXPERTS.fullmatch(suffix)
    count = tensor.shape[0] if len(tensor.shape) == 3 else 0
    if kind is None or not 0 < count <= 256 or tensor.length % count:
        raise ModelFileError(f"tensor blk.{index}.{suffix} of shape {tensor.shape} is not that of experts")
    length = tensor.length // count
    for expert in range(count):
        name = f"block_sparse_moe.experts.{expert}.{EXPERTS[kind[1]]}.weight"
        place = tensor.file or file, tensor.offset + expert * length, length
        yield block_name(index, name), TensorEntry(*place, "", tensor.dtype, tensor.shape[1:])


def _token(metadata: Mapping[str, Any], which: str, vocabulary: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{which}_token_id")
    return value if type(value) is int and 0 <= value < vocabulary else None


class _Keys:
    """Typed look-ups of one architecture's metadata."""

    def __init__(self, name: str, metadata: Mapping[str, Any]) -> None:
        self.name, self._metadata = name, metadata

    def text(self, key: str, default: str) -> str:
        value = self._metadata.get(f"{self.name}.{key}", default)
        if not isinstance(value, str):
            raise ModelFileError(f"GGUF metadata: {self.name}.{key} is {value!r:.80}; a name is needed")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._metadata.get(f"{self.name}.{key}", default)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]  # one number a block, all alike
        if type(value) is not int:
            raise ModelFileError(f"GGUF metadata: {self.name}.{key} is {value!r:.80}; an integer is needed")
        return value

    def shortest(self, key: str, default: float | None = None) -> float:
        """A float32 of the file as the decimal number it was made from: 1e-05, not 9.99999975e-06."""
        value = self._metadata.get(f"{self.name}.{key}", default)
        if type(value) is not float:
            raise ModelFileError(f"GGUF metadata: {self.name}.{key} is {value!r:.80}; a float is needed")
        return float(f"{value:.7g}")

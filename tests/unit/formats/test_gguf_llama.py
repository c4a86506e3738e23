"""What a GGUF file says of a Llama model, in Hugging Face's words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kwaainet.errors import ModelFileError, UnsupportedModel
from kwaainet.formats import gguf, gguf_llama
from kwaainet.formats.config import FULL, SLIDING, ModelConfig
from kwaainet.formats.huggingface import read_config
from kwaainet.formats.rope import RopeScaling, inverse_frequencies


@pytest.fixture
def index(
    tmp_path: Path, write_gguf: Callable[..., Path], tiny_weights: Mapping[str, Any]
) -> Callable[..., gguf.GgufIndex]:
    def make(drop: str = "", add: Mapping[str, Any] | None = None, **arguments: Any) -> gguf.GgufIndex:
        weights = {name: array for name, array in tiny_weights.items() if name != drop} | dict(add or {})
        data = write_gguf(tmp_path / "m.gguf", weights, **arguments).read_bytes()
        return gguf.parse(data, len(data))

    return make


def test_config(index: Callable[..., gguf.GgufIndex], tiny_config: ModelConfig) -> None:
    assert gguf_llama.read_config(index()) == tiny_config  # 1e-5, not the float32 nearest to it
    tied = gguf_llama.read_config(index(drop="lm_head.weight"))
    assert tied == replace(tiny_config, tie_word_embeddings=True)


def test_keys_that_may_be_missing(index: Callable[..., gguf.GgufIndex]) -> None:
    metadata = {"llama.attention.head_count_kv": None, "tokenizer.ggml.eos_token_id": None}
    config = gguf_llama.read_config(index(metadata=metadata))
    assert (config.num_key_value_heads, config.eos_token_id) == (4, None)
    config = gguf_llama.read_config(index(metadata={"llama.attention.head_count_kv": [2, 2]}))
    assert config.num_key_value_heads == 2


def test_tensors_have_canonical_names(index: Callable[..., gguf.GgufIndex], tiny_config: ModelConfig) -> None:
    entries = gguf_llama.read_tensors(index(), "m.gguf")
    assert {name: entry.shape for name, entry in entries.items()} == tiny_config.tensor_shapes()
    permuted = {name.split(".")[-2] for name, entry in entries.items() if entry.permuted}
    assert permuted == {"q_proj", "k_proj"}
    assert {entry.file for entry in entries.values()} == {"m.gguf"}


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({"llama.rope.scaling.type": "ntk"}, ModelFileError, r"llama.rope.scaling.factor is None"),
        (
            {"llama.rope.scaling.type": "ntk", "llama.rope.scaling.factor": 2.0},
            UnsupportedModel,
            r"llama.rope.scaling.type is 'ntk'",
        ),
        ({"llama.rope.scaling.type": 3}, ModelFileError, r"llama.rope.scaling.type is 3; a name"),
        ({"llama.expert_count": 8}, ModelFileError, "llama.expert_used_count is None"),
        ({"llama.rope.dimension_count": 8}, UnsupportedModel, "dimension_count is not the heads' size 16"),
        ({"llama.block_count": None}, ModelFileError, "llama.block_count is None; an integer is needed"),
        ({"llama.block_count": "2"}, ModelFileError, "llama.block_count is '2'"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, ModelFileError, "rms_epsilon is None; a float is"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, ModelFileError, "rms_norm_eps is nan"),
        ({"llama.attention.head_count": 0}, ModelFileError, "among 0 attention heads"),
        ({"llama.attention.head_count": 5}, ModelFileError, "among 5 attention heads"),
        ({"llama.attention.head_count_kv": [2, 4]}, ModelFileError, "an integer is needed"),
    ],
)
def test_what_is_not_supported_is_named(
    index: Callable[..., gguf.GgufIndex], metadata: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        gguf_llama.read_config(index(metadata=metadata))


def test_other_architectures_are_named(index: Callable[..., gguf.GgufIndex]) -> None:
    with pytest.raises(UnsupportedModel, match="architecture is 'falcon'; supported are llama, qwen2"):
        gguf_llama.read_config(index(architecture="falcon"))


@pytest.mark.parametrize(
    "name", ["rope_freq.weight", "blk.0.attn_q.bias", "blk.00.attn_q.weight", "blk.99999.attn_q.weight"]
)
def test_foreign_tensors_are_named(index: Callable[..., gguf.GgufIndex], name: str) -> None:
    with pytest.raises(UnsupportedModel, match=name):
        gguf_llama.read_tensors(index(add={name: np.zeros(4, np.float32)}), "m.gguf")


def test_a_file_without_embeddings_is_refused(index: Callable[..., gguf.GgufIndex]) -> None:
    with pytest.raises(ModelFileError, match=r"no tensor token_embd\.weight"):
        gguf_llama.read_config(index(drop="model.embed_tokens.weight"))


# --- other architectures: names by gguf-py's own maps, settings as convert_hf_to_gguf.py writes them ------

CASES = json.loads((Path(__file__).parents[2] / "vectors" / "architectures.json").read_text())["cases"]
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-linear": ("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
    "llama-yarn": (
        "llama",
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 16,
        },
    ),
    "mistral": ("llama", {"attention.sliding_window": 5}),
    "mixtral": ("llama", {"expert_count": 4, "expert_used_count": 2}),
    "qwen3": ("qwen3", {}),
    "phi3": ("phi3", {"attention.sliding_window": 5}),
    "phi3-partial": ("phi3", {"rope.dimension_count": 16}),
    "gemma2": (
        "gemma2",
        {
            "attention.sliding_window": 5,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 1.5,
        },
    ),
    "gemma3": (
        "gemma3",
        {"attention.sliding_window": 5, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
    ),
}


def _index(name: str, tensors: Mapping[str, tuple[int, ...]]) -> gguf.GgufIndex:
    architecture, own = SETTINGS[name]
    config = read_config(CASES[name]["config"])
    settings = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(np.float32(config.rms_norm_eps)),
        "rope.freq_base": config.rope_theta,
        **own,
    }
    metadata = {f"{architecture}.{key}": value for key, value in settings.items()}
    metadata |= {"general.architecture": architecture}
    metadata |= {f"tokenizer.ggml.{token}_token_id": number for token, number in (("bos", 1), ("eos", 2))}
    at, stored = 4096, {}
    for tensor, shape in tensors.items():
        length = 4 * prod(shape)
        stored[tensor] = gguf.GgufTensor("F32", shape, at, length)
        at += length
    return gguf.GgufIndex(3, metadata, stored)


def _gguf_tensors(name: str) -> dict[str, tuple[int, ...]]:
    import gguf as reference  # here, for there is none inside Pyodide

    architecture, layers = SETTINGS[name][0], 3
    arch = next(key for key, item in reference.MODEL_ARCH_NAMES.items() if item == architecture)
    names, found = reference.get_tensor_name_map(arch, layers), {}
    for tensor, shape in CASES[name]["shapes"].items():
        expert = re.search(r"(layers\.\d+)\..*experts\.\d+\.(w\d\.weight)", tensor)
        merged = f"{expert[1]}.feed_forward.experts.{expert[2]}" if expert else tensor
        stored = names.get_name(merged, (".weight", ".bias"))
        if stored is not None:  # Gemma's heads are always tied
            found[stored] = (4, *shape) if expert else tuple(shape)
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_model_in_both_formats(name: str) -> None:
    index, expected = _index(name, _gguf_tensors(name)), read_config(CASES[name]["config"])
    scalar = 16.0 if name.startswith("gemma") else None  # no file has it: a head's size, but for 27B models
    layers: dict[str, Any] = {}
    if name.startswith("gemma"):
        layers["tie_word_embeddings"] = True
        every = 2 if name == "gemma2" else 6
        layers["layer_types"] = tuple(FULL if (i + 1) % every == 0 else SLIDING for i in range(3))
        layers["rope_local_base_freq"] = 10000.0 if name == "gemma3" else None
    found = gguf_llama.read_config(index)
    assert found == replace(expected, norm_offset=0.0, query_pre_attn_scalar=scalar, **layers)
    entries = gguf_llama.read_tensors(index, "m.gguf")
    assert {key: entry.shape for key, entry in entries.items()} == found.tensor_shapes()
    assert any(entry.permuted for entry in entries.values()) == (SETTINGS[name][0] == "llama")


def test_experts_are_parts_of_one_tensor_or_tensors_of_their_own() -> None:
    tensors = _gguf_tensors("mixtral")
    merged = gguf_llama.read_tensors(_index("mixtral", tensors), "m")
    shape = tensors.pop("blk.1.ffn_up_exps.weight")
    first, second = (merged[f"model.layers.1.block_sparse_moe.experts.{e}.w3.weight"] for e in (0, 1))
    assert second.offset - first.offset == first.length == 4 * prod(shape[1:])
    tensors |= {f"blk.1.ffn_up.{expert}.weight": shape[1:] for expert in range(4)}
    apart = gguf_llama.read_tensors(_index("mixtral", tensors), "m")
    assert {key: entry.shape for key, entry in apart.items()} == {
        key: entry.shape for key, entry in merged.items()
    }
    with pytest.raises(ModelFileError, match="is not that of experts"):
        gguf_llama.read_tensors(_index("mixtral", {"blk.0.ffn_up_exps.weight": (8, 8)}), "m")


def test_llama3_is_known_by_its_factors(index: Callable[..., gguf.GgufIndex]) -> None:
    llama3 = RopeScaling("llama3", 32.0, 8192.0)
    plain = inverse_frequencies(10000.0, 16, None)
    factors = (plain / inverse_frequencies(10000.0, 16, llama3)).astype(np.float32)
    file = index(add={"rope_freqs.weight": factors})
    assert gguf_llama.read_config(file, factors).rope_scaling == llama3
    other = gguf_llama.read_config(file, factors + np.float32(0.5)).rope_scaling
    assert other is not None
    assert (other.rope_type, len(other.factors)) == ("longrope", 8)
    assert gguf_llama.read_tensors(file, "m").keys() == gguf_llama.read_tensors(index(), "m").keys()
    with pytest.raises(ModelFileError, match="were not read"):
        gguf_llama.read_config(file)

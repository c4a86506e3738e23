"""Writes an opened model as one GGUF file that llama.cpp loads, its tokenizer included.

Follows llama.cpp's ``convert_hf_to_gguf.py``. Rule of the file: what was written must read back as the
same model before the first weight is; weights pass through memory one tensor at a time.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import ConfigError, UnsupportedModel
from ..formats import gguf, gguf_llama
from ..formats.config import EMBED, LM_HEAD, NORM, ModelConfig
from ..formats.gguf_writer import Value, head_bytes, padded
from ..formats.quantize import quantize
from ..formats.quants import STORAGE_TYPES, byte_length
from ..inference.vocabulary import Vocabulary
from ..ports import Floats, Report
from ..types import Progress
from .model import Model
from .partial import WrittenFiles

TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}  # llama.cpp's numbers of file types
_OUTER = {EMBED: "token_embd.weight", NORM: "output_norm.weight", LM_HEAD: "output.weight"}
_BLOCK = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
_PRE = {"gpt-2": "gpt-2", "smollm": "smollm", "llama-3": "llama-bpe", "qwen2": "qwen2"}
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def write_gguf(model: Model, path: Path, dtype: str, report: Report) -> None:
    """Write ``model`` to ``path``, its matrices as ``dtype``; rows that fill no blocks become F16.

    Raises ``ConfigError`` for a type not known here or a file that is there, and ``UnsupportedModel``
    for a tokenizer or a feature that this writer cannot carry over.
    """
    if dtype not in TYPES:
        raise ConfigError(f"a GGUF file can be written as {', '.join(TYPES)}, not {dtype}")
    if model.config.architecture != "llama":
        raise UnsupportedModel(f"only Llamas are written as GGUF here, not {model.config.architecture}")
    names = {name: _gguf_name(name) for name in model.config.tensor_shapes()}
    shapes = model.config.tensor_shapes()
    layout = {names[name]: (_type_of(dtype, shape), shape) for name, shape in shapes.items()}
    head = head_bytes(_metadata(model, dtype), layout)
    _check_head(head, layout, model.config)
    total, done = sum(byte_length(kind, prod(shape)) for kind, shape in layout.values()), 0
    with WrittenFiles(path.parent) as files, files.open(path.name) as file:
        file.write(head)
        for name in shapes:
            report(Progress("convert", done, total))
            done += _write_tensor(model, name, layout[names[name]][0], file)
        report(Progress("convert", total, total))


def _write_tensor(model: Model, name: str, dtype: str, file: BinaryIO) -> int:
    array = model.read_tensor(name)
    if name.endswith(("q_proj.weight", "k_proj.weight")):
        array = _permute(array, model.config.head_dim)
    data = quantize(dtype, array)
    file.write(data + bytes(padded(len(data)) - len(data)))
    return len(data)


def _permute(rows: Floats, head_dim: int) -> Floats:
    """GGUF interleaves the two halves that rotary embedding turns together."""
    heads = rows.reshape(-1, 2, head_dim // 2, rows.shape[-1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)


def _type_of(dtype: str, shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return "F32"
    return dtype if shape[-1] % STORAGE_TYPES[dtype].block == 0 else "F16"


def _gguf_name(name: str) -> str:
    if name in _OUTER:
        return _OUTER[name]
    _, _, index, suffix = name.split(".", 3)
    if suffix not in _BLOCK:
        raise UnsupportedModel(
            f"tensor {name} has no place in the GGUF files written here, which are Llamas'"
        )
    return f"blk.{index}.{_BLOCK[suffix]}"


def _check_head(head: bytes, layout: dict[str, tuple[str, tuple[int, ...]]], config: ModelConfig) -> None:
    size = len(head) + sum(padded(byte_length(kind, prod(shape))) for kind, shape in layout.values())
    again = gguf_llama.read_config(gguf.parse(head, size)).to_json()
    for key, value in config.to_json().items():
        if again.get(key) != value:
            raise UnsupportedModel(
                f"a GGUF file would not carry {key} = {value!r:.60} over; nothing was written"
            )


def _metadata(model: Model, dtype: str) -> dict[str, Value]:
    config = model.config
    return {
        "general.architecture": "llama",
        "general.name": model.name,
        "general.file_type": TYPES[dtype],
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": float(config.rope_theta),
        "llama.vocab_size": config.vocab_size,
        **_tokenizer(model.tokenizer.vocabulary, config.vocab_size),
        **_special(model),
    }


def _tokenizer(vocabulary: Vocabulary, size: int) -> dict[str, Value]:
    if vocabulary.kind not in _PRE:
        raise UnsupportedModel(f"a tokenizer of the kind {vocabulary.kind} cannot be written to GGUF")
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [_UNUSED] * size
    for token, number in (*vocabulary.ids.items(), *vocabulary.added.items()):
        if number >= size:
            raise UnsupportedModel(f"token {token!r:.40} has the id {number}; the model has {size} tokens")
        tokens[number], types[number] = token, _NORMAL
    for token, number in vocabulary.added.items():
        types[number] = _CONTROL if token in vocabulary.special else _USER_DEFINED
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _PRE[vocabulary.kind],
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in vocabulary.merges],
        "tokenizer.ggml.add_bos_token": bool(vocabulary.prefix),
    }


def _special(model: Model) -> dict[str, Value]:
    ids = {
        "tokenizer.ggml.bos_token_id": model.config.bos_token_id,
        "tokenizer.ggml.eos_token_id": model.config.eos_token_id,
    }
    known: dict[str, Value] = {key: number for key, number in ids.items() if number is not None}
    more = sorted(model.stop_tokens - {model.config.eos_token_id})
    if more:
        known["tokenizer.ggml.eot_token_id"] = more[0]
    if model.chat_template is not None:
        known["tokenizer.chat_template"] = model.chat_template
    return known

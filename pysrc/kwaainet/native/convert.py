"""Writes an opened model as one GGUF file that llama.cpp loads, its tokenizer included.

Follows llama.cpp's ``convert_hf_to_gguf.py``. Rule of the file: what was written must read back as the
same model before the first weight is; weights pass through memory one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import ConfigError, UnsupportedModel
from ..formats import gguf, gguf_llama
from ..formats.config import ModelConfig
from ..formats.gguf_metadata import as_read, rope_factors, write_config
from ..formats.gguf_names import PERMUTED, gguf_architecture, stored_tensors
from ..formats.gguf_writer import Value, head_bytes, padded
from ..formats.quantize import quantize
from ..formats.quants import STORAGE_TYPES, byte_length
from ..inference.gguf_vocabulary import tokenizer_metadata
from ..ports import Floats, Report
from ..types import Progress
from .model import Model
from .partial import WrittenFiles

TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}  # llama.cpp's numbers of file types


def write_gguf(model: Model, path: Path, dtype: str, report: Report) -> None:
    """Write ``model`` to ``path``, its matrices as ``dtype``; rows that fill no blocks become F16.

    Raises ``ConfigError`` for a type not known here or a file that is there, and ``UnsupportedModel``
    for a tokenizer or a feature that a GGUF file cannot carry over.
    """
    if dtype not in TYPES:
        raise ConfigError(f"a GGUF file can be written as {', '.join(TYPES)}, not {dtype}")
    config, factors = model.config, rope_factors(model.config)
    parts = stored_tensors(config)
    layout = {name: ("F32", array.shape) for name, array in factors.items()}
    layout |= {name: _form(name, names, config, dtype) for name, names in parts.items()}
    head = head_bytes(_metadata(model, dtype), layout)
    _check_head(head, layout, config, next(iter(factors.values()), None))
    total, done = sum(byte_length(kind, prod(shape)) for kind, shape in layout.values()), 0
    with WrittenFiles(path.parent) as files, files.open(path.name) as file:
        file.write(head)
        for factor in factors.values():
            done += _pad(file, file.write(factor.tobytes()))
        for name, names in parts.items():
            written = 0
            for part in names:
                report(Progress("convert", done + written, total))
                written += file.write(quantize(layout[name][0], _read(model, name, part)))
            done += _pad(file, written)
        report(Progress("convert", total, total))


def _pad(file: BinaryIO, written: int) -> int:
    """End a tensor of so many bytes where the next begins; returns ``written``."""
    file.write(bytes(padded(written) - written))
    return written


def _form(name: str, parts: Sequence[str], config: ModelConfig, dtype: str) -> tuple[str, tuple[int, ...]]:
    """Type and shape of the tensor ``name``, which holds the model's ``parts``."""
    shape = config.tensor_shapes()[parts[0]]
    kind = "F32" if len(shape) == 1 or "ffn_gate_inp" in name else dtype  # as llama.cpp keeps them
    if len(shape) > 1 and shape[-1] % STORAGE_TYPES[kind].block:
        kind = "F16"
    return kind, (len(parts), *shape) if "_exps." in name else shape


def _read(model: Model, name: str, part: str) -> Floats:
    """The model's tensor ``part`` as ``name`` in a GGUF file has it."""
    array, config = model.read_tensor(part), model.config
    if part.endswith("norm.weight"):
        return array + np.float32(config.norm_offset)
    if gguf_architecture(config) == "llama" and name.endswith(PERMUTED):
        return _permute(array, config.head_dim)
    return array


def _permute(rows: Floats, head_dim: int) -> Floats:
    """GGUF interleaves the two halves that rotary embedding turns together."""
    heads = rows.reshape(-1, 2, head_dim // 2, rows.shape[-1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)


def _check_head(
    head: bytes, layout: dict[str, tuple[str, tuple[int, ...]]], config: ModelConfig, factors: Floats | None
) -> None:
    """``UnsupportedModel`` unless the head says all of ``config`` that matters."""
    size = len(head) + sum(padded(byte_length(kind, prod(shape))) for kind, shape in layout.values())
    again = gguf_llama.read_config(gguf.parse(head, size), factors).to_json()
    wanted = as_read(config).to_json()
    for key in {**wanted, **again}:
        if again.get(key) != wanted.get(key):
            raise UnsupportedModel(
                f"a GGUF file would not carry {key} = {wanted.get(key)!r:.60} over; nothing was written"
            )


def _metadata(model: Model, dtype: str) -> dict[str, Value]:
    config = model.config
    return {
        **write_config(config),
        "general.name": model.name,
        "general.file_type": TYPES[dtype],
        **tokenizer_metadata(model.tokenizer.vocabulary, config.vocab_size, config.bos_token_id),
        **_special(model),
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

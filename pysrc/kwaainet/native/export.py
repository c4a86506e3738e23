"""Writes an opened model as a Hugging Face directory that stock clients load, old and new.

Follows ``transformers``' ``save_pretrained`` as 4.34 and 5 read it. Rule of the file: nothing that
cannot be written whole is begun, and weights pass through memory one tensor at a time.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import ConfigError, UnsupportedModel
from ..formats.config import EMBED, LM_HEAD, ModelConfig
from ..formats.huggingface import write_config, written_offset
from ..formats.quantize import quantize
from ..formats.safetensors import header_bytes
from ..ports import Report
from ..types import Progress
from .checkpoint import SINGLE
from .model import Model
from .partial import WrittenFiles
from .text import TOKENIZER

_TORCH_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_VERBATIM = (
    TOKENIZER,
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def check_type(dtype: str) -> None:
    """``ConfigError`` unless a Hugging Face directory can have matrices of this type."""
    if dtype not in _TORCH_TYPES:
        raise ConfigError(
            f"a Hugging Face directory can be written as {', '.join(_TORCH_TYPES)}, not {dtype}"
        )


def export(
    model: Model,
    out_dir: Path,
    report: Report | None = None,
    dtype: str = "F32",
    *,
    own_head: bool = True,
) -> None:
    """Write ``model`` as ``dtype`` to ``out_dir``; a head that is tied becomes one of its own unless told
    otherwise: stock Petals needs one.

    Raises ``ConfigError`` if ``out_dir`` holds a model already or cannot be written, and
    ``UnsupportedModel`` if the tokenizer of a GGUF file cannot be converted.
    """
    check_type(dtype)
    texts = _text_files(model)
    config = replace(model.config, tie_word_embeddings=model.config.tie_word_embeddings and not own_head)
    texts["config.json"] = _json(write_config(config) | {"torch_dtype": _TORCH_TYPES[dtype]})
    with WrittenFiles(out_dir) as files:
        files.must_be_new(SINGLE, "config.json")
        with files.open(SINGLE) as file:
            _write_weights(model, config, file, dtype, report or (lambda progress: None))
        for name, data in texts.items():
            files.write(name, data)


def _write_weights(model: Model, config: ModelConfig, file: BinaryIO, dtype: str, report: Report) -> None:
    shapes, offset = config.tensor_shapes(), written_offset(config)
    file.write(header_bytes(shapes, dtype))
    for done, name in enumerate(shapes):
        report(Progress("export", done, len(shapes)))
        stored = EMBED if name == LM_HEAD and model.config.tie_word_embeddings else name
        array = model.read_tensor(stored)
        if name.endswith("norm.weight"):
            array = array + np.float32(offset)
        file.write(quantize(dtype, array))
    report(Progress("export", len(shapes), len(shapes)))


def _text_files(model: Model) -> dict[str, bytes]:
    """Everything but the weights and ``config.json``, by file name."""
    generation = {"bos_token_id": model.config.bos_token_id, "eos_token_id": _one_or_list(model.stop_tokens)}
    files = {
        "generation_config.json": _json({key: ids for key, ids in generation.items() if ids is not None})
    }
    if model.path.is_dir():
        folder = {name: model.path / name for name in _VERBATIM}
        files |= {name: path.read_bytes() for name, path in folder.items() if path.is_file()}
        if TOKENIZER not in files:
            return files
    try:
        vocabulary = model.tokenizer.vocabulary
    except UnsupportedModel:
        if model.path.is_dir():
            return files  # not ours to understand: passed on as it is
        raise
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.max_position_embeddings,
        "model_input_names": ["input_ids", "attention_mask"],  # else transformers 4 adds what no model takes
        "clean_up_tokenization_spaces": False,
        "chat_template": model.chat_template,
        **model.special_tokens,
    }
    files[TOKENIZER] = vocabulary.to_json().encode()
    files["tokenizer_config.json"] = _json({key: item for key, item in settings.items() if item is not None})
    files["special_tokens_map.json"] = _json(dict(model.special_tokens))
    return files


def _one_or_list(tokens: frozenset[int]) -> int | list[int] | None:
    return min(tokens) if len(tokens) == 1 else sorted(tokens) or None


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()

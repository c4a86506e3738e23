"""Writes an opened model as a Hugging Face directory that stock clients load, old and new.

Follows ``transformers``' ``save_pretrained`` as 4.34 and 5 read it. Rule of the file: nothing that
cannot be written whole is begun, and weights pass through memory one tensor at a time.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import ConfigError, UnsupportedModel
from ..formats.config import EMBED, LM_HEAD
from ..formats.huggingface import write_config
from ..formats.safetensors import header_bytes
from ..ports import Report
from ..types import Progress
from .checkpoint import SINGLE
from .model import Model
from .text import TOKENIZER

_PARTIAL = SINGLE + ".part"
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


def export(model: Model, out_dir: Path, report: Report | None = None) -> None:
    """Write ``model`` in float32 with a head of its own (stock Petals needs one) to ``out_dir``.

    Raises ``ConfigError`` if ``out_dir`` holds a model already or cannot be written, and
    ``UnsupportedModel`` if the tokenizer of a GGUF file cannot be converted.
    """
    texts = _text_files(model)
    texts["config.json"] = _json(write_config(model.config))
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for name in (SINGLE, "config.json"):
            if (out_dir / name).exists():
                raise ConfigError(f"{out_dir} holds a model already ({name}); give another folder")
        _write_weights(model, out_dir, report or (lambda progress: None))
        for name, data in texts.items():
            (out_dir / name).write_bytes(data)
        (out_dir / _PARTIAL).rename(out_dir / SINGLE)
    except OSError as error:
        raise ConfigError(f"cannot write {out_dir}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            (out_dir / _PARTIAL).unlink(missing_ok=True)


def _write_weights(model: Model, out_dir: Path, report: Report) -> None:
    shapes = model.config.tensor_shapes()
    shapes.setdefault(LM_HEAD, shapes[EMBED])
    with (out_dir / _PARTIAL).open("wb") as file:
        file.write(header_bytes(shapes))
        for done, name in enumerate(shapes):
            report(Progress("export", done, len(shapes)))
            stored = EMBED if name == LM_HEAD and model.config.tie_word_embeddings else name
            file.write(model.read_tensor(stored).astype("<f4", copy=False).tobytes())
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

"""What a model's own files say about text.

Follows llama.cpp's ``tokenizer.*`` metadata keys and ``transformers``' JSON files. Rule of the
file: a model without any of it still opens, since its blocks can be served without.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelFileError
from ..inference.text import MAX_TEMPLATE_BYTES, TextSettings
from ..inference.tokenizer import Tokenizer

TOKENIZER, TEMPLATE = "tokenizer.json", "chat_template.jinja"
_GGUF_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def from_gguf(metadata: Mapping[str, Any]) -> TextSettings:
    """From a GGUF file's metadata."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    tokens = tokens if isinstance(tokens, list) else []
    special: dict[str, str] = {}
    for name, key in _GGUF_TOKENS.items():
        number = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if type(number) is int and 0 <= number < len(tokens):
            special[name] = str(tokens[number])
    ends = (metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom"))
    template = metadata.get("tokenizer.chat_template")
    return TextSettings(
        load_tokenizer=lambda: Tokenizer.from_gguf_metadata(metadata),
        chat_template=template if isinstance(template, str) else None,
        special_tokens=special,
        stop_tokens=frozenset(number for number in ends if type(number) is int),
    )


def from_directory(folder: Path, objects: Mapping[str, Mapping[str, Any]]) -> TextSettings:
    """From a Hugging Face directory; ``objects``: its JSON files' objects by file name."""
    settings = objects.get("tokenizer_config.json", {})
    special: dict[str, str] = {}
    for source in (settings, objects.get("special_tokens_map.json", {})):
        for name in _GGUF_TOKENS:
            value = source.get(name)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                special[name] = value
    # what generation_config says overrides the config, as in transformers
    ends = objects.get("generation_config.json", {}).get("eos_token_id")
    ends = objects["config.json"].get("eos_token_id") if ends is None else ends
    return TextSettings(
        load_tokenizer=lambda: _read_tokenizer(folder / TOKENIZER),
        chat_template=_read_template(folder / TEMPLATE) or _template(settings.get("chat_template")),
        special_tokens=special,
        stop_tokens=frozenset(
            number for number in (ends if isinstance(ends, list) else [ends]) if type(number) is int
        ),
    )


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_json(path.read_bytes())
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}") from None


def _read_template(path: Path) -> str | None:
    if not path.is_file():
        return None
    data = path.read_bytes()
    try:
        if len(data) <= MAX_TEMPLATE_BYTES:
            return data.decode()
    except UnicodeDecodeError:
        pass
    raise ModelFileError(f"{path.name} of {len(data)} bytes is not a text of at most {MAX_TEMPLATE_BYTES}")


def _template(value: Any) -> str | None:
    """Older files name several templates; ``default`` is the one to use."""
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None

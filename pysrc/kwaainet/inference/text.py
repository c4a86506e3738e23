"""What a model says about text: tokenizer, chat template, special and stop tokens; and the document
in which a relay hands all of it to a tab.

The document is the project's own; its tokenizer is Hugging Face's ``tokenizer.json``. Rule of the
file: a document from the network is untrusted, so each part of it is checked when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ModelFileError
from ..formats.json_text import parse_object
from .tokenizer import Tokenizer
from .vocabulary import MAX_JSON_BYTES, MAX_TOKENS

VERSION = 1
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
MAX_TEMPLATE_BYTES = 1 << 20
_MAX_SPECIAL = 1024  # characters of one token; as in a vocabulary


@dataclass(frozen=True, slots=True)
class TextSettings:
    """``special_tokens``: ``bos_token`` and the like as text; ``stop_tokens``: ids that end a reply."""

    load_tokenizer: Callable[[], Tokenizer]
    chat_template: str | None
    special_tokens: Mapping[str, str]
    stop_tokens: frozenset[int]

    def to_json(self) -> str:
        """As JSON text that ``from_json`` takes. Raises what ``load_tokenizer`` raises."""
        value = {
            "version": VERSION,
            "tokenizer": self.load_tokenizer().vocabulary.to_json(),
            "chat_template": self.chat_template,
            "special_tokens": dict(self.special_tokens),
            "stop_tokens": sorted(self.stop_tokens),
        }
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> TextSettings:
        """From a peer's JSON; ``ModelFileError`` or ``UnsupportedModel`` says what is wrong with it."""
        if len(text) > 2 * MAX_JSON_BYTES:
            raise ModelFileError(f"text settings of {len(text)} bytes; {2 * MAX_JSON_BYTES} are allowed")
        value = parse_object(text, "text settings")
        if value.get("version") != VERSION:
            raise ModelFileError(f"text settings are not a JSON object of version {VERSION}")
        vocabulary, template = value.get("tokenizer"), value.get("chat_template")
        if not isinstance(vocabulary, str):
            raise ModelFileError("text settings: tokenizer must be the text of a tokenizer.json")
        if template is not None and not (isinstance(template, str) and len(template) <= MAX_TEMPLATE_BYTES):
            raise ModelFileError(f"text settings: chat_template is no text of at most {MAX_TEMPLATE_BYTES}")
        tokenizer = Tokenizer.from_json(vocabulary)
        return cls(lambda: tokenizer, template, _special(value), _stops(value))


def _special(value: Mapping[str, Any]) -> dict[str, str]:
    tokens = value.get("special_tokens")
    if not isinstance(tokens, dict) or not all(
        name in SPECIAL_TOKENS and isinstance(token, str) and len(token) <= _MAX_SPECIAL
        for name, token in tokens.items()
    ):
        raise ModelFileError(f"text settings: special_tokens may name only {', '.join(SPECIAL_TOKENS)}")
    return tokens


def _stops(value: Mapping[str, Any]) -> frozenset[int]:
    stops = value.get("stop_tokens")
    if not isinstance(stops, list) or not all(
        type(number) is int and 0 <= number < MAX_TOKENS for number in stops
    ):
        raise ModelFileError("text settings: stop_tokens must be a list of token ids")
    return frozenset(stops)

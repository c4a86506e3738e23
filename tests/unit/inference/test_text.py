"""A model's text settings survive the way to a tab, and nothing unsound does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kwaainet.errors import ModelFileError, UnsupportedModel
from kwaainet.inference.text import MAX_TEMPLATE_BYTES, TextSettings
from kwaainet.inference.tokenizer import Tokenizer

SPECIAL = {"bos_token": "<|start|>", "eos_token": "<|end|>"}


@pytest.fixture
def settings(tiny_metadata: dict[str, Any]) -> TextSettings:
    tokenizer = Tokenizer.from_gguf_metadata(tiny_metadata)
    return TextSettings(lambda: tokenizer, "{{ messages }}", SPECIAL, frozenset({1, 5}))


def test_the_document_keeps_everything(settings: TextSettings) -> None:
    read = TextSettings.from_json(settings.to_json())
    assert read.load_tokenizer().vocabulary == settings.load_tokenizer().vocabulary
    assert (read.chat_template, read.special_tokens, read.stop_tokens) == ("{{ messages }}", SPECIAL, {1, 5})
    text = "hello wor <|end|> ü"
    assert read.load_tokenizer().encode(text) == settings.load_tokenizer().encode(text)


def test_a_model_without_a_template(settings: TextSettings) -> None:
    bare = TextSettings(settings.load_tokenizer, None, {}, frozenset())
    read = TextSettings.from_json(bare.to_json())
    assert (read.chat_template, read.special_tokens, read.stop_tokens) == (None, {}, frozenset())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "of version 1"),
        ({"tokenizer": {}}, "must be the text of a tokenizer.json"),
        ({"tokenizer": "{"}, "tokenizer.json"),
        ({"chat_template": 5}, "chat_template"),
        ({"chat_template": " " * (MAX_TEMPLATE_BYTES + 1)}, "chat_template"),
        ({"special_tokens": []}, "special_tokens"),
        ({"special_tokens": {"messages": "x"}}, "special_tokens"),
        ({"special_tokens": {"bos_token": 1}}, "special_tokens"),
        ({"stop_tokens": 5}, "stop_tokens"),
        ({"stop_tokens": [-1]}, "stop_tokens"),
        ({"stop_tokens": [True]}, "stop_tokens"),
    ],
)
def test_what_is_wrong_is_named(settings: TextSettings, changes: dict[str, Any], message: str) -> None:
    document = json.loads(settings.to_json()) | changes
    with pytest.raises(ModelFileError, match=message):
        TextSettings.from_json(json.dumps(document))


def test_a_tokenizer_not_known_here_is_refused(settings: TextSettings) -> None:
    document = json.loads(settings.to_json())
    document["tokenizer"] = json.dumps(json.loads(document["tokenizer"]) | {"normalizer": {"type": "NFKC"}})
    with pytest.raises(UnsupportedModel, match="normalizer NFKC"):
        TextSettings.from_json(json.dumps(document))

"""Chat template, special and stop tokens from either kind of model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kwaainet.errors import ModelFileError
from kwaainet.native.text import from_directory, from_gguf


def test_gguf(tiny_metadata: dict[str, Any]) -> None:
    text = from_gguf(tiny_metadata | {"tokenizer.ggml.eot_token_id": 5})
    assert text.special_tokens == {"bos_token": "<|start|>", "eos_token": "<|end|>"}
    assert text.stop_tokens == {1, 5}
    assert text.chat_template == tiny_metadata["tokenizer.chat_template"]
    assert text.load_tokenizer().decode([0]) == "<|start|>"


def test_gguf_with_nothing_or_nonsense() -> None:
    for metadata in (
        {},
        {"tokenizer.ggml.tokens": 5, "tokenizer.ggml.eos_token_id": "x", "tokenizer.chat_template": 1},
    ):
        text = from_gguf(metadata)
        assert (text.special_tokens, text.stop_tokens, text.chat_template) == ({}, frozenset(), None)


@pytest.mark.parametrize(
    ("config", "generation", "stops"),
    [
        ({"eos_token_id": 2}, {}, {2}),
        ({"eos_token_id": [2, 3]}, {}, {2, 3}),
        ({"eos_token_id": 2}, {"eos_token_id": [4, 5]}, {4, 5}),
        ({}, {}, set()),
        ({"eos_token_id": "x"}, {}, set()),
    ],
)
def test_stop_tokens_of_a_directory(
    tmp_path: Path, config: dict[str, Any], generation: dict[str, Any], stops: set[int]
) -> None:
    objects = {"config.json": config, "generation_config.json": generation}
    assert from_directory(tmp_path, objects).stop_tokens == stops


def test_special_tokens_of_a_directory(tmp_path: Path) -> None:
    objects = {
        "config.json": {},
        "tokenizer_config.json": {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None},
        "special_tokens_map.json": {"eos_token": "<|end|>"},
    }
    assert from_directory(tmp_path, objects).special_tokens == {"bos_token": "<s>", "eos_token": "<|end|>"}


def test_templates_of_a_directory(tmp_path: Path) -> None:
    def template(value: Any) -> str | None:
        return from_directory(
            tmp_path, {"config.json": {}, "tokenizer_config.json": {"chat_template": value}}
        ).chat_template

    assert template("plain") == "plain"
    assert template([{"name": "tool", "template": "a"}, {"name": "default", "template": "b"}]) == "b"
    assert template([1]) is None
    assert template(None) is None
    (tmp_path / "chat_template.jinja").write_text("from a file")
    assert template("plain") == "from a file"
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelFileError, match=r"chat_template\.jinja of 1 bytes is not a text"):
        template("plain")


def test_the_tokenizer_is_read_when_asked_for(tmp_path: Path, tiny_tokenizer_json: dict[str, Any]) -> None:
    text = from_directory(tmp_path, {"config.json": {}})
    with pytest.raises(ModelFileError, match="cannot read"):
        text.load_tokenizer()
    (tmp_path / "tokenizer.json").write_text(json.dumps(tiny_tokenizer_json))
    assert text.load_tokenizer().decode([1]) == "<|end|>"

"""The template of a model on disk is the one that renders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kwaainet.errors import InputError
from kwaainet.native.chat import render_chat
from kwaainet.native.model import open_model

HI = [{"role": "user", "content": "Hi <b>"}]


def test_a_models_own_template(
    tmp_path: Path, write_gguf: Callable[..., Path], tiny_weights: Mapping[str, Any]
) -> None:
    assert (
        render_chat(open_model(write_gguf(tmp_path / "m.gguf", tiny_weights)), HI) == "<|start|>Hi <b><|end|>"
    )
    bare = write_gguf(tmp_path / "bare.gguf", tiny_weights, metadata={"tokenizer.chat_template": None})
    with pytest.raises(InputError, match="has no chat template"):
        render_chat(open_model(bare), HI)

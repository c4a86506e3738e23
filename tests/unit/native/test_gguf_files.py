"""GGUF files in shards and GGML files open as the same model that one GGUF file is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit.formats import ggml_files

from kwaainet.errors import InputError, ModelFileError, UnsupportedModel
from kwaainet.formats.config import ModelConfig
from kwaainet.native.gguf_files import read_gguf
from kwaainet.native.model import open_model

Write = Callable[..., Path]
Weights = Mapping[str, Any]


@pytest.fixture
def shards(tmp_path: Path, write_gguf: Write, tiny_weights: Weights) -> list[Path]:
    write_gguf(tmp_path / "tiny.gguf", tiny_weights, "Q8_0", split=6)
    return sorted(tmp_path.iterdir())


def test_shards_are_the_model_of_one_file(
    shards: list[Path], tmp_path: Path, write_gguf: Write, tiny_weights: Weights
) -> None:
    (tmp_path / "whole").mkdir()
    whole = open_model(write_gguf(tmp_path / "whole" / "tiny.gguf", tiny_weights, "Q8_0"))
    assert [path.name for path in shards] == [f"tiny-0000{i}-of-00004.gguf" for i in (1, 2, 3, 4)]
    for opened in shards[0], shards[2]:
        model = open_model(opened)
        assert (model.name, model.config) == (whole.name, whole.config)
        assert set(model.files) == {path.name for path in shards}
        assert model.tokenizer.encode("hello") == whole.tokenizer.encode("hello")
        for name in tiny_weights:
            np.testing.assert_array_equal(model.read_tensor(name), whole.read_tensor(name))


def test_a_missing_or_wrong_shard_is_named(shards: list[Path]) -> None:
    shutil.copy(shards[0], shards[1])
    with pytest.raises(ModelFileError, match=r"00002-of-00004\.gguf: split\.no is 0, but 1"):
        open_model(shards[0])
    shards[1].unlink()
    with pytest.raises(InputError, match=r"tiny-00002-of-00004\.gguf is missing: the model has 4 files"):
        open_model(shards[0])


def test_a_broken_shard_is_named(shards: list[Path]) -> None:
    shards[2].write_bytes(shards[2].read_bytes()[:100])
    with pytest.raises(ModelFileError, match=r"tiny-00003-of-00004\.gguf: truncated"):
        open_model(shards[0])


@pytest.mark.parametrize(
    ("form", "version"), [("ggml", 0), ("ggmf", 1), ("ggjt", 1), ("ggjt", 2), ("ggjt", 3)]
)
def test_ggml_files_are_models(
    tmp_path: Path, form: str, version: int, tiny_weights: Weights, tiny_config: ModelConfig
) -> None:
    count, hidden, heads = tiny_config.vocab_size, tiny_config.hidden_size, tiny_config.num_attention_heads
    sizes = (count, hidden, 32, heads, tiny_config.num_hidden_layers, tiny_config.head_dim, 2)
    tokens = [(str(i).encode(), 0.0) for i in range(count)]
    data, meant = ggml_files.write(form, version, sizes, tokens, tiny_weights, "Q4_0")
    (tmp_path / "tiny.q4_0.bin").write_bytes(data)
    model = open_model(tmp_path / "tiny.q4_0.bin")
    assert (model.name, model.config.num_key_value_heads) == ("tiny-hf", tiny_config.num_key_value_heads)
    down = "model.layers.1.mlp.down_proj.weight"
    np.testing.assert_array_equal(model.read_tensor(down), meant[down])
    query = "model.layers.1.self_attn.q_proj.weight"
    interleaved = meant[query].reshape(heads, tiny_config.head_dim // 2, 2, hidden).swapaxes(1, 2)
    np.testing.assert_array_equal(model.read_tensor(query), interleaved.reshape(-1, hidden))


def test_relatives_of_ggml_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"algg" + bytes(40))
    with pytest.raises(UnsupportedModel, match="a LoRA adapter"):
        read_gguf(tmp_path / "x.bin")

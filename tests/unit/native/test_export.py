"""What is written opens again as the same model, here and with the reference packages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import tokenizers

from kwaainet.errors import ConfigError, InputError, UnsupportedModel
from kwaainet.native.export import export
from kwaainet.native.model import open_model
from kwaainet.types import Progress

Write = Callable[..., Path]
Weights = Mapping[str, np.ndarray]


@pytest.fixture(params=["gguf", "directory"])
def tied_model(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    write_gguf: Write,
    write_directory: Write,
    tiny_weights: Weights,
) -> Path:
    tied = {name: array for name, array in tiny_weights.items() if name != "lm_head.weight"}
    if request.param == "gguf":
        return write_gguf(tmp_path / "m.gguf", tied, metadata={"tokenizer.ggml.pre": "gpt-2"})
    return write_directory(tmp_path / "m", tied, shards=2, config={"tie_word_embeddings": True})


def test_a_copy_has_all_weights_and_its_own_head(
    tied_model: Path, tmp_path: Path, tiny_weights: Weights
) -> None:
    out = tmp_path / "deep" / "copy"
    seen: list[Progress] = []
    export(open_model(tied_model), out, seen.append)
    assert seen[-1] == Progress("export", 21, 21)
    stored = safetensors.numpy.load_file(out / "model.safetensors")
    assert stored.keys() == tiny_weights.keys()
    for name, array in stored.items():
        expected = "model.embed_tokens.weight" if name == "lm_head.weight" else name
        np.testing.assert_array_equal(array, tiny_weights[expected], err_msg=name)
    config = json.loads((out / "config.json").read_text())
    assert (config["tie_word_embeddings"], config["torch_dtype"]) == (False, "float32")
    assert config["architectures"] == ["LlamaForCausalLM"]


def test_a_head_may_stay_tied(tied_model: Path, tmp_path: Path, tiny_weights: Weights) -> None:
    export(open_model(tied_model), tmp_path / "copy", own_head=False)
    stored = safetensors.numpy.load_file(tmp_path / "copy" / "model.safetensors")
    assert stored.keys() == tiny_weights.keys() - {"lm_head.weight"}
    assert json.loads((tmp_path / "copy" / "config.json").read_text())["tie_word_embeddings"] is True


def test_a_copy_speaks_as_the_original(tied_model: Path, tmp_path: Path) -> None:
    original, out = open_model(tied_model), tmp_path / "copy"
    export(original, out)
    copy = open_model(out)
    assert copy.tokenizer.vocabulary == original.tokenizer.vocabulary
    assert copy.chat_template == original.chat_template
    assert copy.special_tokens == original.special_tokens
    assert copy.stop_tokens == original.stop_tokens
    written = (out / "tokenizer.json").read_text()
    assert tokenizers.Tokenizer.from_str(written).encode("hello<|end|>").ids == copy.tokenizer.encode(
        "hello<|end|>"
    )
    assert all(
        isinstance(merge, str) for merge in json.loads(written)["model"]["merges"]
    )  # for tokenizers 0.14
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "token_type_ids" not in settings["model_input_names"]
    assert json.loads((out / "generation_config.json").read_text()) == {"bos_token_id": 0, "eos_token_id": 1}


def test_a_model_is_never_overwritten(tied_model: Path, tmp_path: Path) -> None:
    model, out = open_model(tied_model), tmp_path / "copy"
    export(model, out)
    before = (out / "model.safetensors").stat()
    with pytest.raises(ConfigError, match=r"holds model\.safetensors already"):
        export(model, out)
    assert (out / "model.safetensors").stat() == before


def test_a_copy_that_fails_leaves_no_half_model(tied_model: Path, tmp_path: Path) -> None:
    model, out = open_model(tied_model), tmp_path / "copy"
    for file in model.files.values():
        file.write_bytes(file.read_bytes()[:-5000])  # the disk went bad since it was opened
    with pytest.raises(InputError, match="too early"):
        export(model, out)
    assert list(out.iterdir()) == []


def test_a_folder_that_cannot_be_made(tied_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        export(open_model(tied_model), tmp_path / "file" / "copy")


def test_tokenizers_not_understood(
    tmp_path: Path, write_gguf: Write, write_directory: Write, tiny_weights: Weights
) -> None:
    foreign = write_gguf(tmp_path / "m.gguf", tiny_weights, metadata={"tokenizer.ggml.model": "bert"})
    with pytest.raises(UnsupportedModel, match="only 'gpt2'"):
        export(open_model(foreign), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    folder = write_directory(tmp_path / "m", tiny_weights)
    theirs = json.dumps({"model": {"type": "Unigram"}, "decoder": {"type": "ByteLevel"}})
    (folder / "tokenizer.json").write_text(theirs)
    export(open_model(folder), tmp_path / "b")  # a directory's files are passed on as they are
    assert (tmp_path / "b" / "tokenizer.json").read_text() == theirs
    (folder / "tokenizer.json").unlink()
    export(open_model(folder), tmp_path / "c")
    assert not (tmp_path / "c" / "tokenizer.json").exists()

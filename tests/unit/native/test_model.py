"""A model opens alike from either kind of file; a broken one is refused with one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit.formats.torch_files import legacy_file, tensor, zip_file

from kwaainet.errors import InputError, ModelFileError, UnsupportedModel
from kwaainet.formats.config import ModelConfig
from kwaainet.formats.manifest import Assembly, ModelManifest, fetch_plan
from kwaainet.formats.weights import Weight
from kwaainet.native.model import default_name, open_model
from kwaainet.types import BlockRange, Progress

Write = Callable[..., Path]
Weights = Mapping[str, np.ndarray]


def test_gguf_and_directory_are_the_same_model(
    tmp_path: Path, write_gguf: Write, write_directory: Write, tiny_weights: Weights, tiny_config: ModelConfig
) -> None:
    models = [
        open_model(write_gguf(tmp_path / "Tiny-1.5M.F32.gguf", tiny_weights)),
        open_model(write_directory(tmp_path / "Tiny-1.5M", tiny_weights)),
        open_model(write_directory(tmp_path / "Tiny 1.5M-hf", tiny_weights, shards=3)),
    ]
    for model in models:
        assert model.name == "Tiny-1-5M-hf"
        assert model.config == tiny_config
        for name, array in tiny_weights.items():
            np.testing.assert_array_equal(model.read_tensor(name), array, err_msg=name)
        assert ModelManifest.from_json(model.manifest.to_json()) == model.manifest
    assert len(models[2].files) == 3


@pytest.mark.parametrize(
    ("dtype", "error"), [("F16", 2e-3), ("BF16", 2e-2), ("Q8_0", 2e-2), ("Q4_0", 0.4), ("Q4_1", 0.3)]
)
def test_quantized_gguf_is_near_the_original(
    tmp_path: Path, write_gguf: Write, tiny_weights: Weights, dtype: str, error: float
) -> None:
    model = open_model(write_gguf(tmp_path / "m.gguf", tiny_weights, dtype))
    for name, array in tiny_weights.items():
        assert np.abs(model.read_tensor(name) - array).max() < error, name


def test_half_precision_directories(tmp_path: Path, write_directory: Write, tiny_weights: Weights) -> None:
    halves = {name: array.astype(np.float16) for name, array in tiny_weights.items()}
    model = open_model(write_directory(tmp_path / "m", halves))
    for name, array in halves.items():
        np.testing.assert_array_equal(model.read_tensor(name), array.astype(np.float32))


def test_head_of_tied_and_separate_models(
    tmp_path: Path, write_gguf: Write, write_directory: Write, tiny_weights: Weights
) -> None:
    head = open_model(write_gguf(tmp_path / "a.gguf", tiny_weights)).load_head()
    np.testing.assert_array_equal(head.lm_head, tiny_weights["lm_head.weight"])
    np.testing.assert_array_equal(head.norm, tiny_weights["model.norm.weight"])
    tied = {name: array for name, array in tiny_weights.items() if name != "lm_head.weight"}
    for path in (
        write_gguf(tmp_path / "b.gguf", tied),
        write_directory(tmp_path / "c", tied, config={"tie_word_embeddings": True}),
        write_directory(
            tmp_path / "d", tiny_weights, config={"tie_word_embeddings": True}
        ),  # stored, not used
    ):
        head = open_model(path).load_head()
        assert head.lm_head is head.embedding
        np.testing.assert_array_equal(head.embedding, tiny_weights["model.embed_tokens.weight"])


def test_what_a_node_fetches_has_the_hashes_of_the_manifest(
    tmp_path: Path, write_gguf: Write, tiny_weights: Weights
) -> None:
    model = open_model(write_gguf(tmp_path / "m.gguf", tiny_weights, "Q4_1"))
    span = model.manifest.span(BlockRange(1, 2))
    assembly, got = Assembly(span), {}
    for read in fetch_plan(span, max_read=5000):
        got.update(assembly.receive(read, model.source.read_now(read.file, read.offset, read.length)))
    assert got.keys() == span.keys()
    name = "model.layers.1.self_attn.q_proj.weight"
    weight = Weight.stored(span[name], got[name])
    np.testing.assert_array_equal(weight.floats(model.config), model.read_tensor(name))


def test_progress_counts_every_byte(tmp_path: Path, write_gguf: Write, tiny_weights: Weights) -> None:
    seen: list[Progress] = []
    model = open_model(write_gguf(tmp_path / "m.gguf", tiny_weights), seen.append)
    total = sum(entry.length for entry in model.manifest.tensors.values())
    assert seen[-1] == Progress("hash", total, total)
    assert [progress.done for progress in seen] == sorted({progress.done for progress in seen})


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct-hf"),
        ("Llama-3.2-1B-Instruct-Q8_0.gguf", "Llama-3-2-1B-Instruct-hf"),
        ("Llama-2-7b-hf", "Llama-2-7b-hf"),
        ("my model.f16.gguf", "my-model-hf"),
        ("Big-70B.Q4_K_M-00001-of-00009.gguf", "Big-70B-hf"),
        ("llama-7b.q4_0.bin", "llama-7b-hf"),
        ("ü.gguf", "model-hf"),
    ],
)
def test_default_names_are_prefixes_petals_accepts(file: str, name: str) -> None:
    assert default_name(Path("/models") / file) == name


def test_the_name_can_be_given(tmp_path: Path, write_gguf: Write, tiny_weights: Weights) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_weights)
    assert open_model(path, name="other-hf").name == "other-hf"
    with pytest.raises(ModelFileError, match=r"'a\.b' cannot name a model"):
        open_model(path, name="a.b")


def test_pytorch_files_beside_a_config(
    tmp_path: Path, write_directory: Write, tiny_weights: Weights, tiny_config: ModelConfig
) -> None:
    folder = write_directory(tmp_path / "m", tiny_weights)
    (folder / "model.safetensors").unlink()
    tensors = {name: tensor(array) for name, array in tiny_weights.items()}
    names = list(tensors)
    index = {"weight_map": dict.fromkeys(names[::2], "even.bin") | dict.fromkeys(names[1::2], "odd.bin")}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "even.bin").write_bytes(zip_file({name: tensors[name] for name in names[::2]}))
    (folder / "odd.bin").write_bytes(legacy_file({name: tensors[name] for name in names[1::2]}))
    (folder / "whole.pth").write_bytes(zip_file({"state_dict": tensors}))
    for path in (folder, folder / "whole.pth"):
        model = open_model(path)
        assert model.config == tiny_config
        for name, array in tiny_weights.items():
            np.testing.assert_array_equal(model.read_tensor(name), array, err_msg=name)
    (folder / "even.bin").write_bytes(zip_file({}))
    with pytest.raises(ModelFileError, match=r"even\.bin lacks the tensor .* that the index puts there"):
        open_model(folder)
    turned = np.asfortranarray(tiny_weights[names[0]])
    (folder / "whole.pth").write_bytes(zip_file(tensors | {names[0]: tensor(turned)}))
    np.testing.assert_array_equal(open_model(folder / "whole.pth").read_tensor(names[0]), turned)


# --- broken files -------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo[BaseException], path: Path) -> None:
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.5, 0.999])
def test_a_truncated_gguf_is_refused(
    tmp_path: Path, write_gguf: Write, tiny_weights: Weights, share: float
) -> None:
    path = write_gguf(tmp_path / "m.gguf", tiny_weights)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelFileError, match="truncated") as error:
        open_model(path)
    one_line(error, path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_directory_is_refused(
    tmp_path: Path, write_directory: Write, tiny_weights: Weights, share: float
) -> None:
    path = write_directory(tmp_path / "m", tiny_weights)
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(ModelFileError, match="truncated") as error:
        open_model(path)
    one_line(error, path)


def test_wrong_paths(tmp_path: Path) -> None:
    missing = tmp_path / "missing.gguf"
    with pytest.raises(InputError, match="no such file") as error:
        open_model(missing)
    one_line(error, missing)
    with pytest.raises(ModelFileError, match=r"no config\.json"):
        open_model(tmp_path)
    (tmp_path / "notes.txt").write_text("hello, this is not a model")
    with pytest.raises(ModelFileError, match="not a GGUF file: it begins with b'hell'"):
        open_model(tmp_path / "notes.txt")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="give the directory"):
        open_model(tmp_path / "model.safetensors")


def test_directories_with_parts_missing(
    tmp_path: Path, write_directory: Write, tiny_weights: Weights
) -> None:
    path = write_directory(tmp_path / "m", tiny_weights, shards=2)
    first = path / "model-00001-of-00002.safetensors"
    hidden = first.rename(path / "elsewhere")
    with pytest.raises(ModelFileError, match=r"model-00001-of-00002\.safetensors: No such file"):
        open_model(path)
    hidden.rename(first)
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../secret.safetensors"}}))
    with pytest.raises(ModelFileError, match=r"'../secret.safetensors' cannot be a model's file"):
        open_model(path)
    index.write_text(json.dumps({"weight_map": {"x": first.name}}))
    with pytest.raises(ModelFileError, match="lacks the tensor x that the index"):
        open_model(path)
    index.unlink()
    with pytest.raises(ModelFileError, match="neither"):
        open_model(path)


def test_tensors_that_do_not_fit_the_config(
    tmp_path: Path, write_directory: Write, tiny_weights: Weights, tiny_config: ModelConfig
) -> None:
    partial = {name: array for name, array in tiny_weights.items() if name != "model.norm.weight"}
    with pytest.raises(ModelFileError, match=r"lacks 1 tensors, among them model\.norm\.weight"):
        open_model(write_directory(tmp_path / "a", partial))
    wider = replace(tiny_config, intermediate_size=128).to_json()
    with pytest.raises(ModelFileError, match=r"its shape is \[96, 64\]; the config asks for \[128, 64\]"):
        open_model(write_directory(tmp_path / "b", tiny_weights, config=wider))
    with pytest.raises(UnsupportedModel, match="model_type is 'falcon'"):
        open_model(write_directory(tmp_path / "c", tiny_weights, config={"model_type": "falcon"}))


def test_a_model_without_a_tokenizer_opens(
    tmp_path: Path, write_gguf: Write, write_directory: Write, tiny_weights: Weights
) -> None:
    foreign: dict[str, Any] = {"tokenizer.ggml.model": "bert"}
    model = open_model(write_gguf(tmp_path / "m.gguf", tiny_weights, metadata=foreign))
    with pytest.raises(UnsupportedModel, match="only 'gpt2' and 'llama' are supported"):
        _ = model.tokenizer
    folder = write_directory(tmp_path / "m", tiny_weights)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelFileError, match=r"cannot read .*tokenizer\.json"):
        _ = open_model(folder).tokenizer

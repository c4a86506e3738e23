"""A GGUF file that we wrote is read alike by us and by the reference reader."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.numpy

from kwaainet.errors import ConfigError, UnsupportedModel
from kwaainet.inference import sentencepiece
from kwaainet.inference.vocabulary import Vocabulary
from kwaainet.native import convert
from kwaainet.native.model import Model, open_model
from kwaainet.testing.architectures import Case
from kwaainet.types import Progress

Write = Callable[..., Path]
Weights = Mapping[str, np.ndarray]


def ignore(progress: Progress) -> None:
    pass


@pytest.mark.parametrize("dtype", list(convert.TYPES))
def test_what_is_written_is_the_same_model(
    tmp_path: Path, write_directory: Write, write_gguf: Write, tiny_weights: Weights, dtype: str
) -> None:
    model, path = open_model(write_directory(tmp_path / "m", tiny_weights)), tmp_path / "ours.gguf"
    reference = write_gguf(tmp_path / "theirs.gguf", tiny_weights, dtype)
    convert.write_gguf(model, path, dtype, ignore)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(reference).tensors}
    ours = gguf.GGUFReader(path)
    assert ours.fields["general.file_type"].contents() == int(
        gguf.LlamaFileType[f"MOSTLY_{dtype}"] if dtype != "F32" else 0
    )
    assert len(ours.tensors) == len(theirs)
    for tensor in ours.tensors:
        same = tensor.tensor_type == theirs[tensor.name].tensor_type or tensor.shape[0] % 32
        assert same, tensor.name
        if tensor.tensor_type == theirs[tensor.name].tensor_type:
            np.testing.assert_array_equal(tensor.data, theirs[tensor.name].data, err_msg=tensor.name)
    again = open_model(path)
    assert again.config == model.config
    assert again.tokenizer.encode("hello<|end|> w") == model.tokenizer.encode("hello<|end|> w")
    assert (again.chat_template, again.stop_tokens) == (model.chat_template, model.stop_tokens)
    assert again.special_tokens == model.special_tokens


def test_what_cannot_be_carried_over_is_refused_before_anything_is_written(
    tmp_path: Path, write_directory: Write, write_gguf: Write, tiny_weights: Weights
) -> None:
    model, path = open_model(write_directory(tmp_path / "m", tiny_weights)), tmp_path / "x.gguf"
    with pytest.raises(ConfigError, match="F32, F16, Q4_0, Q8_0, BF16, not Q2_K"):
        convert.write_gguf(model, path, "Q2_K", ignore)
    foreign = write_gguf(tmp_path / "f.gguf", tiny_weights, metadata={"tokenizer.ggml.model": "bert"})
    with pytest.raises(UnsupportedModel, match="only 'gpt2'"):
        convert.write_gguf(open_model(foreign), path, "F16", ignore)
    odd = open_model(write_directory(tmp_path / "o", tiny_weights, config={"rms_norm_eps": 1.00000001e-5}))
    with pytest.raises(UnsupportedModel, match=r"would not carry rms_norm_eps = 1\.00000001e-05 over"):
        convert.write_gguf(odd, path, "F16", ignore)
    assert not path.exists()
    assert not list(tmp_path.glob("*.part"))


CASES = json.loads((Path(__file__).parents[2] / "vectors" / "architectures.json").read_text())["cases"]
LLAMA_3 = CASES["llama-llama3"]["config"]["rope_parameters"] | {"rope_theta": 500000.0}
IN_GGUF = {  # what the files cannot say otherwise: blocks slide in a fixed order, Gemma's scale is a head's
    "qwen2": {"use_sliding_window": False, "layer_types": ["full_attention"] * 3},
    "llama-llama3": {"rope_parameters": {**LLAMA_3, "original_max_position_embeddings": 8192}},
    "gemma2": {
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "gemma3": {"query_pre_attn_scalar": 16, "layer_types": ["sliding_attention"] * 3},
}


def folder_of(case: dict[str, Any], folder: Path, tokenizer: dict[str, Any], **config: Any) -> Model:
    """A case of ``architecture_vectors.py`` on disk, with a tokenizer of its 37 tokens."""
    folder.mkdir()
    settings = {**case["config"], **config}
    if "layer_types" in settings:
        settings["layer_types"] = settings["layer_types"][: settings["num_hidden_layers"]]
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    tensors = Case.read(case).tensors
    safetensors.numpy.save_file(dict(tensors), folder / "model.safetensors")
    return open_model(folder)


def pieces() -> dict[str, Any]:
    """A SentencePiece vocabulary of 37 tokens, as ``tokenizer.json`` has it."""
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        "<0x0A>",
        *"\u2581abcdefghijk",
        "ab",
        "abc",
        "\u2581a",
        "\u2581ab",
        "bc",
    ]
    tokens += [f"<{number}>" for number in range(37 - len(tokens))]
    ids = {token: number for number, token in enumerate(tokens)}
    scores = {token: -float(rank) for rank, token in enumerate(("ab", "\u2581a", "abc", "\u2581ab", "bc"))}
    vocabulary = Vocabulary(
        ids=ids,
        merges=sentencepiece.merges_of(ids, scores),
        kind=sentencepiece.KIND,
        added={"<unk>": 0, "<s>": 1, "</s>": 2, "<0>": ids["<0>"]},
        special=frozenset(("<unk>", "<s>", "</s>")),
        prefix=(1,),
        space_prefix=True,
    )
    return dict(json.loads(vocabulary.to_json()))


@pytest.mark.parametrize("name", CASES)
def test_every_architecture_comes_back_and_is_named_as_the_reference_names_it(
    tmp_path: Path, name: str
) -> None:
    model = folder_of(CASES[name], tmp_path / "m", pieces(), **IN_GGUF.get(name, {}))
    path = tmp_path / "m.gguf"
    convert.write_gguf(model, path, "F32", ignore)
    again = open_model(path)
    for tensor in model.manifest.tensors:
        offset = np.float32(model.config.norm_offset if tensor.endswith("norm.weight") else 0)
        np.testing.assert_array_equal(again.read_tensor(tensor), model.read_tensor(tensor) + offset)
    text = " abc\n</s>ab<0> bcé"
    assert again.tokenizer.encode(text) == model.tokenizer.encode(text)
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    known = next(key for key, item in gguf.MODEL_ARCH_NAMES.items() if item == architecture)
    assert {template(tensor.name) for tensor in reader.tensors} <= {
        gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[known]
    }
    assert reader.fields["tokenizer.ggml.model"].contents() == "llama"
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    assert types[:5] == [2, 3, 3, 6, 1]
    assert types[-1] == 1
    assert types[again.tokenizer.vocabulary.ids["<0>"]] == 4


def template(name: str) -> str:
    """``blk.{bid}.attn_q`` of ``blk.0.attn_q.weight``."""
    return re.sub(r"blk\.\d+\.", "blk.{bid}.", name.removesuffix(".weight").removesuffix(".bias"))


def test_sizes_that_a_gguf_file_cannot_say_are_refused(tmp_path: Path) -> None:
    for name, message in (
        ("qwen2", "carry layer_types"),
        ("gemma3", "carry query_pre_attn_scalar = 24.0"),
        ("gemma2", "gemma2 have no head beside the embedding"),
        ("llama-llama3", "carry rope_scaling"),  # other settings than Llama 3.x's would read back as factors
    ):
        model = folder_of(CASES[name], tmp_path / name, pieces())
        with pytest.raises(UnsupportedModel, match=message):
            convert.write_gguf(model, tmp_path / "x.gguf", "F16", ignore)
    assert not (tmp_path / "x.gguf").exists()


def test_experts_are_one_tensor_and_routers_stay_exact(tmp_path: Path) -> None:
    model = folder_of(CASES["mixtral"], tmp_path / "m", pieces())
    convert.write_gguf(model, tmp_path / "m.gguf", "F16", ignore)
    tensors = {one.name: one for one in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    up = tensors["blk.1.ffn_up_exps.weight"]
    assert list(up.shape) == [48, 40, 4]
    expected = model.read_tensor("model.layers.1.block_sparse_moe.experts.2.w3.weight")
    np.testing.assert_array_equal(up.data[2], expected.astype(np.float16))
    assert tensors["blk.0.ffn_gate_inp.weight"].tensor_type == gguf.GGMLQuantizationType.F32

"""A GGUF file that we wrote is read alike by us and by the reference reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest

from kwaainet.errors import ConfigError, UnsupportedModel
from kwaainet.inference import sentencepiece
from kwaainet.inference.vocabulary import Vocabulary
from kwaainet.native import convert
from kwaainet.native.model import open_model
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


def test_a_tokenizer_of_another_kind_is_refused_by_its_name() -> None:
    vocabulary = Vocabulary(ids={"a": 0}, merges=[], kind=sentencepiece.KIND)
    with pytest.raises(UnsupportedModel, match=f"of the kind {sentencepiece.KIND} cannot be written to GGUF"):
        convert._tokenizer(vocabulary, 1)

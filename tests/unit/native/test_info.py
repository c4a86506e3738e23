"""Every format is named, and its bytes are counted by type and by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from unit.formats.torch_files import legacy_file, tensor, zip_file

from kwaainet.errors import InputError, ModelFileError
from kwaainet.native.info import describe_model

Write = Callable[..., Path]
Weights = Mapping[str, np.ndarray]


def test_formats_types_and_blocks(
    tmp_path: Path, write_gguf: Write, write_directory: Write, tiny_weights: Weights
) -> None:
    gguf = describe_model(write_gguf(tmp_path / "m.gguf", tiny_weights, "Q8_0"))
    assert (gguf.format, gguf.architecture, gguf.name) == ("GGUF", "llama", "m-hf")
    assert set(gguf.types) == {"Q8_0", "F32"}
    folder = write_directory(tmp_path / "m", tiny_weights, shards=2)
    info = describe_model(folder)
    whole = sum(array.nbytes for array in tiny_weights.values())
    assert info.format == "SafeTensors"
    assert (info.types["F32"].tensors, info.types["F32"].bytes) == (len(tiny_weights), whole)
    assert sum(info.blocks) + info.outer == whole
    assert len(info.blocks) == info.config["num_hidden_layers"] == 2
    assert len(info.files) == 2
    assert info.to_json()["block_bytes"] == list(info.blocks)
    tensors = {name: tensor(array) for name, array in tiny_weights.items()}
    for write, name in ((zip_file, "PyTorch (zip)"), (legacy_file, "PyTorch (legacy)")):
        (folder / "m.pth").write_bytes(write(tensors))
        torch = describe_model(folder / "m.pth")
        assert (torch.format, torch.blocks) == (name, info.blocks)


def test_what_cannot_be_served_is_listed_with_the_reason(
    tmp_path: Path, write_gguf: Write, write_directory: Write, tiny_weights: Weights
) -> None:
    more = {**tiny_weights, "blk.0.ssm_in.weight": np.zeros((4, 64), np.float32)}
    for info in (
        describe_model(write_gguf(tmp_path / "m.gguf", more, "Q8_0", architecture="mamba")),
        describe_model(write_directory(tmp_path / "m", more, shards=2, config={"model_type": "mamba"})),
    ):
        assert info.architecture == "mamba"
        assert "mamba" in info.problem
        assert (info.config, info.blocks) == ({}, ())
        assert info.tensors["blk.0.ssm_in.weight"].shape == (4, 64)
        assert len(info.tensors) == len(tiny_weights) + 1
        assert sum(one.tensors for one in info.types.values()) == len(info.tensors)
        assert info.to_json()["problem"] == info.problem
    broken = tmp_path / "b.gguf"
    broken.write_bytes((tmp_path / "m.gguf").read_bytes()[:-4000])
    with pytest.raises(ModelFileError, match="truncated"):
        describe_model(broken)


def test_errors_name_the_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path / 'none'}: no such file"):
        describe_model(tmp_path / "none")

"""Files that PyTorch itself wrote are read as PyTorch meant them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from interop.running import OFFLINE, PEERS, started

from kwaainet.errors import UnsupportedModel
from kwaainet.formats.manifest import TensorEntry
from kwaainet.formats.stored import StoredTensor
from kwaainet.formats.weights import Weight
from kwaainet.native.checkpoint import read_checkpoint
from kwaainet.native.model import open_model


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, peers_python: Path) -> Path:
    folder = tmp_path_factory.mktemp("torch")
    with started([peers_python, PEERS / "save_torch.py", folder], folder, "save_torch", OFFLINE) as running:
        assert running.process.wait(120) == 0, running.tail()
    return folder


def contents(path: Path, stored: dict[str, StoredTensor]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    data = path.read_bytes()
    found = {}
    for name, one in stored.items():
        raw = data[one.offset : one.offset + one.length]
        if one.strides:
            place = one.offset, one.length
            raw = Weight.stored(
                TensorEntry("", *place, "", one.dtype, one.shape, strides=one.strides), raw
            ).data
        found[name] = one.dtype, one.shape, bytes(raw)
    return found


@pytest.mark.parametrize("file", ["zip.pt", "nested.pth", "legacy.pt"])
def test_tensors_are_those_that_pytorch_saved(written: Path, file: str) -> None:
    reference = written / "expected.safetensors"
    expected = contents(reference, read_checkpoint(reference, []))
    stored = read_checkpoint(written / file, [])
    assert expected.keys() - stored.keys() == ({"e4m3", "e5m2", "u16"} if file == "legacy.pt" else set())
    assert (stored["turned"].strides, stored["part"].strides) == ((1, 8), (8, 2))
    for name, found in contents(written / file, stored).items():
        assert found == expected[name], name


def test_a_whole_module_is_refused_by_the_first_class_it_needs(written: Path) -> None:
    with pytest.raises(
        UnsupportedModel, match=r"asks for torch\.nn\.modules\.linear\.Linear, which no weights"
    ):
        read_checkpoint(written / "module.pt", [])


def test_shards_as_transformers_saves_them(written: Path) -> None:
    torch, safe = open_model(written / "sharded"), open_model(written / "sharded-safe")
    index = json.loads((written / "sharded" / "pytorch_model.bin.index.json").read_text())
    assert len(torch.files) == len(set(index["weight_map"].values())) > 1
    for name in safe.manifest.tensors:
        np.testing.assert_array_equal(torch.read_tensor(name), safe.read_tensor(name), err_msg=name)
        assert torch.manifest.tensors[name].sha256 == safe.manifest.tensors[name].sha256

"""Which files of a folder hold its weights, and what kind each is by its content."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from unit.formats.torch_files import legacy_file, tensor, zip_file

from kwaainet.errors import ModelFileError
from kwaainet.native.checkpoint import find_shards, is_checkpoint, read_checkpoint

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)
FILES = {
    "a.safetensors": safetensors.numpy.save({"t": ARRAY}),
    "a.bin": zip_file({"t": tensor(ARRAY)}),
    "b.bin": legacy_file({"t": tensor(ARRAY)}),
}


@pytest.mark.parametrize("name", FILES)
def test_content_says_what_a_file_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / "odd name"
    path.write_bytes(FILES[name])
    assert is_checkpoint(path)
    stored = read_checkpoint(path, ["t"])["t"]
    assert FILES[name][stored.offset : stored.offset + stored.length] == ARRAY.tobytes()
    with pytest.raises(ModelFileError, match="odd name lacks the tensor u"):
        read_checkpoint(path, ["t", "u"])
    path.write_bytes(FILES[name][:-4])
    with pytest.raises(ModelFileError, match="odd name: truncated"):
        read_checkpoint(path, [])


def test_a_gguf_of_123_tensors_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + b"{" + bytes(7))
    assert not is_checkpoint(path)


def test_safetensors_come_before_pytorch_and_whole_files_before_shards(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"neither of model\.safetensors, .*pytorch_model\.bin\.index"):
        find_shards(tmp_path)
    for name in ("pytorch_model.bin", "model.safetensors"):
        index = json.dumps({"weight_map": {"t": f"shard of {name}"}})
        (tmp_path / f"{name}.index.json").write_text(index)
        assert find_shards(tmp_path) == {f"shard of {name}": ["t"]}
        (tmp_path / name).write_bytes(b"")
        assert find_shards(tmp_path) == {name: []}

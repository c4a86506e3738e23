"""Models in several GGUF files: what the ``gguf`` package splits is read as one, anything odd is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from kwaainet.errors import InputError, KwaaiNetError, ModelFileError
from kwaainet.formats.gguf import GgufIndex, GgufTensor
from kwaainet.formats.gguf_shards import join, read_index, require_shards, shard_names
from kwaainet.formats.reading import drive

FILES = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"]


def index(number: int, *tensors: str, **changes: Any) -> GgufIndex:
    said = {"split.no": number, "split.count": 3, "split.tensors.count": 4}
    said |= {f"split.{key}": value for key, value in changes.items()}
    metadata = {key: value for key, value in said.items() if value is not None} | {"of": number}
    return GgufIndex(3, metadata, {name: GgufTensor("F32", (1,), 32, 4) for name in tensors})


def model(*changed: tuple[int, GgufIndex]) -> Mapping[str, GgufIndex]:
    parts = [index(0, "a"), index(1, "b", "c"), index(2, "d")]
    for number, part in changed:
        parts[number] = part
    return dict(zip(FILES, parts, strict=True))


def test_the_parts_are_one_model() -> None:
    joined = join(model())
    assert {name: tensor.file for name, tensor in joined.tensors.items()} == {
        "a": FILES[0], "b": FILES[1], "c": FILES[1], "d": FILES[2],
    }  # fmt: skip
    assert joined.metadata["of"] == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ((1, index(0, "b", "c")), r"00002-of-00003.gguf: split.no is 0, but 1 was expected"),
        ((1, index(1, "b", "c", no=-1)), "split.no is -1"),
        ((1, index(1, "b", "c", no=None)), "split.no is None; an integer is needed"),
        ((2, index(2, "d", count=4)), "split.count is 4, but 3 was expected"),
        ((0, index(0, "a", **{"tensors.count": 1 << 30})), "split.tensors.count is"),
        ((2, index(2, "d", **{"tensors.count": 5})), "split.tensors.count is 5, but 4"),
        ((2, index(2, "a")), "tensor a lies in m-00001-of-00003.gguf and in m-00003-of-00003.gguf"),
        ((2, index(2)), "split.tensors.count is 4, but the 3 files hold 3 tensors"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changed: tuple[int, GgufIndex], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        join(model(changed))


def test_a_part_under_another_name_is_refused() -> None:
    with pytest.raises(ModelFileError, match=r"split\.count is 3, but 1 was expected; open the first"):
        join({"renamed.gguf": replace(index(0, "a", **{"tensors.count": 1}))})


def test_a_file_alone_needs_no_words_about_parts() -> None:
    alone = GgufIndex(3, {}, {"a": GgufTensor("F32", (1,), 32, 4)})
    assert join({"x.gguf": alone}).tensors["a"].file == "x.gguf"


def test_names() -> None:
    assert shard_names(FILES[1]) == FILES
    assert shard_names("m-1-of-3.gguf") == ["m-1-of-3.gguf"]
    assert require_shards(FILES, FILES[2]) == FILES


@pytest.mark.parametrize(
    ("sizes", "file", "error", "message"),
    [
        ([], "m-00004-of-00003.gguf", ModelFileError, "part 4 of 3"),
        ([], "m-00000-of-00003.gguf", ModelFileError, "part 0 of 3"),
        ([], "m-00001-of-99999.gguf", ModelFileError, "of 99999; up to 1024"),
        (FILES[::2], FILES[0], InputError, f"{FILES[1]} is missing: the model has 3 files"),
    ],
)
def test_names_that_lead_nowhere(
    sizes: list[str], file: str, error: type[KwaaiNetError], message: str
) -> None:
    with pytest.raises(error, match=message):
        require_shards(sizes, file)


def test_what_the_reference_splits_is_read_by_range(tmp_path: Path) -> None:
    weights = {f"blk.{i}.attn_q.weight": np.full((64, 32), i, np.float32) for i in range(5)}
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=2)
    writer.add_uint32("llama.block_count", 5)
    for name, array in weights.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    raw = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    names = require_shards(raw, FILES[0])
    assert names == sorted(raw) == FILES
    joined = join(
        {
            name: drive(read_index(len(raw[name])), lambda at, n, data=raw[name]: data[at : at + n])
            for name in names
        }
    )
    assert joined.metadata["llama.block_count"] == 5
    for name, array in weights.items():
        tensor = joined.tensors[name]
        assert raw[tensor.file][tensor.offset : tensor.offset + tensor.length] == array.tobytes()

"""GGUF heads written by the ``gguf`` package are read; broken ones are refused, whatever their bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf as reference
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import KwaaiNetError, ModelFileError, Truncated, UnsupportedModel
from kwaainet.formats import gguf
from kwaainet.formats.quants import STORAGE_TYPES

WRITTEN = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")  # by the reference package


@pytest.fixture(scope="session")
def files(
    tmp_path_factory: pytest.TempPathFactory, write_gguf: Callable[..., Path], tiny_weights: Mapping[str, Any]
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    return {dtype: write_gguf(folder / f"{dtype}.gguf", tiny_weights, dtype) for dtype in WRITTEN}


@pytest.mark.parametrize("dtype", WRITTEN)
def test_index_equals_the_reference_readers(files: dict[str, Path], dtype: str) -> None:
    data = files[dtype].read_bytes()
    index = gguf.parse(data, len(data))
    reader = reference.GGUFReader(files[dtype])
    assert list(index.tensors) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        got = index.tensors[tensor.name]
        assert (got.dtype, got.offset, got.length) == (
            tensor.tensor_type.name,
            tensor.data_offset,
            tensor.n_bytes,
        )
        assert got.shape == tuple(int(size) for size in reversed(tensor.shape))
    for key, value in index.metadata.items():
        assert value == reader.fields[key].contents(), key


def test_every_type_of_tensor_has_the_references_number_and_size(tmp_path: Path) -> None:
    writer = reference.GGUFWriter(tmp_path / "m.gguf", "llama")
    for dtype, kind in reference.GGMLQuantizationType.__members__.items():
        if dtype not in STORAGE_TYPES:
            continue
        raw = np.zeros((3, STORAGE_TYPES[dtype].size), np.uint8)
        writer.add_tensor(dtype, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = (tmp_path / "m.gguf").read_bytes()
    tensors = gguf.parse(data, len(data)).tensors
    assert len(tensors) == 18
    for name, tensor in tensors.items():
        assert (tensor.dtype, tensor.shape) == (name, (3, STORAGE_TYPES[name].block))
        assert tensor.length == 3 * STORAGE_TYPES[name].size


def test_every_kind_of_metadata(tmp_path: Path) -> None:
    writer = reference.GGUFWriter(tmp_path / "m.gguf", "llama")
    values: dict[str, Any] = {
        "uint8": 200, "int8": -100, "uint16": 60000, "int16": -30000, "uint32": 1 << 31, "int32": -(1 << 30),
        "uint64": 1 << 63, "int64": -(1 << 62), "float32": 0.5, "float64": 0.1, "bool": True,
        "string": "größe", "array": [1, 2, 3],
    }  # fmt: skip
    for kind, value in values.items():
        getattr(writer, f"add_{kind}")(f"x.{kind}", value)
    writer.add_array("x.words", ["a", "", "ü"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    data = (tmp_path / "m.gguf").read_bytes()
    metadata = gguf.parse(data, len(data)).metadata
    assert {key: metadata[f"x.{key}"] for key in values} == values
    assert metadata["x.words"] == ["a", "", "ü"]


def test_a_prefix_asks_for_more_until_it_is_whole(files: dict[str, Path]) -> None:
    data = files["Q4_1"].read_bytes()
    steps = [0]
    while True:
        try:
            index = gguf.parse(data[: steps[-1]], len(data))
            break
        except Truncated as more:
            steps.append(more.needed)
    assert index == gguf.parse(data, len(data))
    assert steps == sorted(set(steps))
    assert len(steps) > 100


def head(*parts: bytes, version: int = 3, tensors: int = 0, keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(parts)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


ARRAY, ONE = struct.pack("<I", 9), struct.pack("<Q", 1)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"GGML" + bytes(40), ModelFileError, "not a GGUF file"),
        (head(version=1), UnsupportedModel, "version 1;"),
        (b"GGUF\0\0\0\3" + bytes(16), UnsupportedModel, r"big-endian"),
        (head(tensors=1 << 40), ModelFileError, f"claims {1 << 40} tensors"),
        (head(keys=1 << 40), ModelFileError, "metadata keys"),
        (head(struct.pack("<Q", 1 << 62), keys=1), ModelFileError, "bytes in a string"),
        (head(text(b"\xff"), keys=1), ModelFileError, "not UTF-8"),
        (head(text(b"k"), struct.pack("<I", 13), keys=1), ModelFileError, "type 13 at nesting 0"),
        (head(text(b"k"), ARRAY + (ARRAY + ONE) * 2 + ARRAY, keys=1), ModelFileError, "type 9 at nesting 2"),
        (head(text(b"k"), ARRAY, struct.pack("<IQ", 0, 1 << 60), keys=1), ModelFileError, "array elements"),
        (head((text(b"k") + struct.pack("<II", 4, 1)) * 2, keys=2), ModelFileError, "key k twice"),
        (head(text(b"general.alignment"), struct.pack("<II", 4, 0), keys=1), ModelFileError, "alignment 0"),
        (head(tensor(b"t", (), 0, 0), tensors=1), ModelFileError, "0 dimensions"),
        (head(tensor(b"t", (1,) * 5, 0, 0), tensors=1), ModelFileError, "5 dimensions"),
        (head(tensor(b"t", (256,), 17, 0), tensors=1), UnsupportedModel, "type IQ2_XS; supported are F32"),
        (head(tensor(b"t", (32,), 99, 0), tensors=1), UnsupportedModel, "type number 99"),
        (head(tensor(b"t", (33,), 8, 0), tensors=1), ModelFileError, "rows of 33 do not fill Q8_0"),
        (head(tensor(b"t", (4,), 0, 4), tensors=1), ModelFileError, "not aligned to 32"),
        (head(tensor(b"t", (4,), 0, 0) * 2, tensors=2), ModelFileError, "tensor t twice"),
        (head(tensor(b"t", (9,), 0, 0), tensor(b"u", (4,), 0, 32), tensors=2), ModelFileError, "overlap at"),
        (head(tensor(b"t", (1 << 63, 1 << 63), 0, 0), tensors=1), ModelFileError, "truncated: tensor t"),
    ],
)  # fmt: skip
def test_broken_heads_are_refused(data: bytes, error: type[KwaaiNetError], message: str) -> None:
    with pytest.raises(error, match=message):
        gguf.parse(data, 10_000)


def test_a_head_beyond_the_cap_is_refused_not_asked_for() -> None:
    long = struct.pack("<I", 8) + text(bytes(gguf.MAX_STRING_BYTES))
    data = head(*(text(bytes([33 + i])) + long for i in range(65)), keys=65)
    with pytest.raises(ModelFileError, match="longer than") as caught:
        gguf.parse(data, 1 << 40)
    assert not isinstance(caught.value, Truncated)


def test_all_arrays_together_are_bounded() -> None:
    """A byte in the file is eight in a list, so the head's own cap would not do."""
    array = ARRAY + struct.pack("<IQ", 0, 1 << 20) + bytes(1 << 20)
    data = head(*(text(bytes([97 + i])) + array for i in range(5)), keys=5)
    with pytest.raises(ModelFileError, match=f"claims {1 << 20} more array elements; 0 are allowed"):
        gguf.parse(data, 1 << 40)


@given(st.data())
def test_damaged_files_raise_only_our_errors(files: dict[str, Path], data: st.DataObject) -> None:
    raw = bytearray(files["Q8_0"].read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, 8000))] = data.draw(st.integers(0, 255))
    with suppress(KwaaiNetError):
        gguf.parse(bytes(raw), len(raw))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    for prefix in (b"", b"GGUF\3\0\0\0", head(tensors=1, keys=0), head(tensors=0, keys=1)):
        with suppress(KwaaiNetError):
            gguf.parse(prefix + data, 1000)


def test_a_file_cut_in_its_tensors_is_refused(files: dict[str, Path]) -> None:
    data = files["F16"].read_bytes()
    size = max(place.offset + place.length for place in gguf.parse(data, len(data)).tensors.values())
    with pytest.raises(ModelFileError, match="truncated: tensor"):
        gguf.parse(data, size - 1)
    assert np.array(gguf.parse(data, size).tensors["output_norm.weight"].shape).tolist() == [64]

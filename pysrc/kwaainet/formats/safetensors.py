"""SafeTensors files: where the tensors lie, from the head of the file.

Follows the format's README (``huggingface/safetensors``). Rule of the file: it sees bytes, never a
file; it asks for more with ``Truncated`` and checks every size before it allocates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from ..errors import ModelFileError, Truncated, UnsupportedModel
from .json_text import parse_object
from .quants import byte_length

MAX_HEADER_BYTES = 100_000_000  # the reference implementation's cap
MAX_TENSORS = 1 << 16
MAX_DIMENSIONS = 8
MAX_SIZE = 1 << 48  # of a dimension or a file
MAX_INDEX_BYTES = 64 << 20
MAX_SHARDS = 4096

SUPPORTED = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """``length`` bytes at ``offset`` from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def parse(prefix: bytes, size: int) -> dict[str, StoredTensor]:
    """The tensors of a file of ``size`` bytes that begins with ``prefix``.

    Raises ``Truncated`` while ``prefix`` does not hold the whole head, ``ModelFileError`` for a
    broken file and ``UnsupportedModel`` for a type of numbers not known here.
    """
    if len(prefix) < 8:
        raise Truncated("SafeTensors head needs 8 bytes", 8)
    length = int.from_bytes(prefix[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise ModelFileError(f"not a SafeTensors file: its head claims {length} bytes")
    start = 8 + length
    if start > len(prefix):
        raise Truncated(f"SafeTensors head ends at byte {start}", start)
    header = parse_object(prefix[8:start], "SafeTensors head")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise ModelFileError(f"SafeTensors file has {len(header)} tensors; {MAX_TENSORS} are allowed")
    tensors = {name: _tensor(name, value, start) for name, value in header.items()}
    _check_places(tensors, size)
    return tensors


def parse_index(data: bytes) -> dict[str, list[str]]:
    """``model.safetensors.index.json``: which tensors each shard file must hold."""
    weight_map = parse_object(data, "SafeTensors index").get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ModelFileError("SafeTensors index: weight_map must be an object of file names")
    shards: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        shards.setdefault(file, []).append(name)
    if len(shards) > MAX_SHARDS:
        raise ModelFileError(f"SafeTensors index names {len(shards)} files; {MAX_SHARDS} are allowed")
    return shards


def header_bytes(tensors: Mapping[str, tuple[int, ...]]) -> bytes:
    """The head of a file of float32 tensors that follow one another in the given order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in tensors.items():
        end = offset + byte_length("F32", prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin aligned
    return len(text).to_bytes(8, "little") + text


def _tensor(name: str, value: Any, start: int) -> StoredTensor:
    where = f"SafeTensors head, tensor {name:.80}"
    if not isinstance(value, dict):
        raise ModelFileError(f"{where}: not an object but {type(value).__name__}")
    shape, offsets, dtype = _sizes(value.get("shape")), _sizes(value.get("data_offsets")), value.get("dtype")
    if shape is None or len(shape) > MAX_DIMENSIONS:
        raise ModelFileError(f"{where}: shape must be a list of up to {MAX_DIMENSIONS} sizes")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ModelFileError(f"{where}: data_offsets must be [begin, end]")
    if dtype not in SUPPORTED:
        raise UnsupportedModel(f"{where}: its type is {dtype!r:.40}; supported are {', '.join(SUPPORTED)}")
    length = offsets[1] - offsets[0]
    if length != byte_length(dtype, prod(shape)):
        raise ModelFileError(f"{where}: {length} bytes do not hold {shape!s:.80} of {dtype}")
    return StoredTensor(dtype, tuple(shape), start + offsets[0], length)


def _sizes(value: Any) -> list[int] | None:
    if isinstance(value, list) and all(type(item) is int and 0 <= item < MAX_SIZE for item in value):
        return value
    return None


def _check_places(tensors: Mapping[str, StoredTensor], size: int) -> None:
    end, before = 0, ""
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].length)):
        if tensor.offset < end:
            raise ModelFileError(f"tensors {before:.80} and {name:.80} overlap at byte {tensor.offset}")
        end, before = tensor.offset + tensor.length, name
    if end > size:
        raise ModelFileError(f"truncated: tensor {before:.80} ends at byte {end}, the file at {size}")

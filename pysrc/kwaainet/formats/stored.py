"""Where a tensor lies in a file of weights, as SafeTensors and PyTorch files both say it.

Names of types are those of the SafeTensors format (``huggingface/safetensors``, ``tensor.rs``). Rule
of the file: a file's tensors are all listed; which of them a model may use, and why not, is said here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ModelFileError, UnsupportedModel
from .json_text import parse_object

MAX_TENSORS = 1 << 16
MAX_DIMENSIONS = 8
MAX_SIZE = 1 << 48  # of a dimension or a file
MAX_INDEX_BYTES = 64 << 20
MAX_SHARDS = 4096

ELEMENT_BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64},
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E8M0": 8, "F8_E4M3": 8, "F8_E5M2": 8},
    **{"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64},
    **{"C64": 64, "C128": 128},
}
WEIGHT_TYPES = ("F64", "F32", "BF16", "F16", "F8_E5M2", "F8_E4M3")  # those that ``quants`` decodes


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """``length`` bytes at ``offset`` from the start of the file, whole rows one after the other.

    ``strides``, in numbers, of a view that is not: then its first number is at ``offset`` and its last
    ends ``length`` bytes after. ``problem`` says why they cannot be a model's weights; empty if they can.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int
    problem: str = ""
    strides: tuple[int, ...] = ()

    def check_weight(self, name: str) -> None:
        """``UnsupportedModel`` if this cannot be the model's tensor ``name``."""
        if self.problem:
            raise UnsupportedModel(f"tensor {name:.80} {self.problem}")


def stored_length(dtype: str, count: int) -> int:
    """Bytes of ``count`` numbers. ``UnsupportedModel`` for an unknown type, ``ModelFileError`` if the
    last byte is not full."""
    bits = ELEMENT_BITS.get(dtype)
    if bits is None:
        raise UnsupportedModel(f"type {dtype:.40} is unknown; known are {', '.join(ELEMENT_BITS)}")
    length, rest = divmod(bits * count, 8)
    if rest:
        raise ModelFileError(f"{count} numbers of {dtype} do not end with a byte")
    return length


def type_problem(dtype: str) -> str:
    """Why numbers of ``dtype`` are no weights; empty if they may be."""
    if dtype in WEIGHT_TYPES:
        return ""
    return f"has the type {dtype}; weights may be {', '.join(WEIGHT_TYPES)}"


def parse_index(data: bytes) -> dict[str, list[str]]:
    """``….index.json``: which tensors each shard file must hold."""
    weight_map = parse_object(data, "index of shards", unique=True).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ModelFileError("index of shards: weight_map must be an object of file names")
    if len(weight_map) > MAX_TENSORS:
        raise ModelFileError(f"index of shards: names {len(weight_map)} tensors; {MAX_TENSORS} are allowed")
    shards: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        shards.setdefault(file, []).append(name)
    if len(shards) > MAX_SHARDS:
        raise ModelFileError(f"index of shards: names {len(shards)} files; {MAX_SHARDS} are allowed")
    return shards


def check_places(tensors: Mapping[str, StoredTensor], start: int, size: int) -> None:
    """``ModelFileError`` unless the tensors fill the file from ``start`` to ``size``, each byte once."""
    end, before = start, "the head"
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].length)):
        if tensor.offset < end:
            raise ModelFileError(f"tensors {before:.80} and {name:.80} overlap at byte {tensor.offset}")
        if tensor.offset > end:
            raise ModelFileError(f"bytes {end} to {tensor.offset}, before {name:.80}, belong to no tensor")
        end, before = tensor.offset + tensor.length, name
        if end > size:
            raise ModelFileError(f"truncated: tensor {before:.80} ends at byte {end}, the file at {size}")
    if end < size:
        raise ModelFileError(f"{size - end} bytes after the last tensor, {before:.80}, belong to none")

"""GGUF files, versions 2 and 3: metadata and where the tensors lie, from the head of the file.

Follows ggml's ``docs/gguf.md``. Rule of the file: it sees bytes, never a file; it asks for more
with ``Truncated`` and checks every count before it allocates. Which model it is, ``gguf_llama`` says.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from ..errors import ModelFileError, Truncated, UnsupportedModel
from .quants import STORAGE_TYPES, byte_length

MAGIC = b"GGUF"
MAX_HEADER_BYTES = 64 << 20  # a vocabulary of 256k tokens with merges takes 15 MB
MAX_METADATA = 4096
MAX_TENSORS = 1 << 16
MAX_STRING_BYTES = 1 << 20  # chat templates reach some 10 kB
MAX_ELEMENTS = 1 << 22  # of all arrays; a vocabulary of 256k takes 1.3 million
MAX_NESTING = 2  # arrays of arrays
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 16

_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_SUPPORTED = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16",
}  # fmt: skip
_UNSUPPORTED = {  # ggml's enum, to name what a file holds
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 31: "Q4_0_4_4", 32: "Q4_0_4_8",
    33: "Q4_0_8_8", 34: "TQ1_0", 35: "TQ2_0", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
    39: "MXFP4", 40: "NVFP4",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """``length`` bytes at ``offset`` from the start of the file; ``shape`` slowest dimension first.

    ``file`` names the file of a model in several; empty where there is just one.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int
    file: str = ""


@dataclass(frozen=True, slots=True)
class GgufIndex:
    """What the head of a GGUF file says; arrays in ``metadata`` are lists."""

    version: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def parse(prefix: bytes, size: int) -> GgufIndex:
    """Read the head of a file of ``size`` bytes that begins with ``prefix``.

    Raises ``Truncated`` (with the bytes needed so far) while ``prefix`` does not hold the whole
    head, ``ModelFileError`` for a broken file and ``UnsupportedModel`` for types not known here.
    """
    reader = _Reader(prefix)
    if reader.take(4) != MAGIC:
        raise ModelFileError(f"not a GGUF file: it begins with {prefix[:4]!r}")
    version = reader.number("I")
    if version not in (2, 3):
        big_endian = " (big-endian)" if version & 0xFFFF == 0 else ""
        raise UnsupportedModel(f"GGUF version {version}{big_endian}; 2 and 3 are supported")
    tensor_count = reader.count(MAX_TENSORS, "tensors")
    metadata: dict[str, Any] = {}
    for _ in range(reader.count(MAX_METADATA, "metadata keys")):
        key = reader.string()
        if key in metadata:
            raise ModelFileError(f"GGUF metadata has the key {key:.80} twice")
        metadata[key] = reader.value(reader.number("I"))
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT or alignment % 8:
        raise ModelFileError(
            f"GGUF alignment {alignment!r:.80}; a multiple of 8 up to {MAX_ALIGNMENT} is allowed"
        )
    tensors: dict[str, GgufTensor] = {}
    for _ in range(tensor_count):
        name = reader.string()
        if name in tensors:
            raise ModelFileError(f"GGUF file has the tensor {name:.80} twice")
        tensors[name] = _tensor(reader, name, alignment)
    start = -(-reader.position // alignment) * alignment
    placed = {
        name: GgufTensor(tensor.dtype, tensor.shape, start + tensor.offset, tensor.length)
        for name, tensor in tensors.items()
    }
    _check_places(placed, size)
    return GgufIndex(version, metadata, placed)


def _tensor(reader: _Reader, name: str, alignment: int) -> GgufTensor:
    dimensions = reader.number("I")
    if not 0 < dimensions <= MAX_DIMENSIONS:
        raise ModelFileError(
            f"tensor {name:.80} has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are allowed"
        )
    shape = tuple(reader.number("Q") for _ in range(dimensions))[::-1]
    kind = reader.number("I")
    dtype = _SUPPORTED.get(kind)
    if dtype is None:
        found = _UNSUPPORTED.get(kind, f"number {kind}")
        known = ", ".join(_SUPPORTED.values())
        raise UnsupportedModel(f"tensor {name:.80} is of type {found}; supported are {known}")
    offset = reader.number("Q")
    if offset % alignment:
        raise ModelFileError(f"tensor {name:.80} lies at {offset}, not aligned to {alignment}")
    if shape[-1] % STORAGE_TYPES[dtype].block:
        raise ModelFileError(f"tensor {name:.80}: rows of {shape[-1]} do not fill {dtype} blocks")
    return GgufTensor(dtype, shape, offset, byte_length(dtype, prod(shape)))


def _check_places(tensors: Mapping[str, GgufTensor], size: int) -> None:
    end, before = 0, ""
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
        if tensor.offset < end:
            raise ModelFileError(f"tensors {before:.80} and {name:.80} overlap at byte {tensor.offset}")
        end, before = tensor.offset + tensor.length, name
    if end > size:
        raise ModelFileError(f"truncated: tensor {before:.80} ends at byte {end}, the file at {size}")


class _Reader:
    """A position in the prefix; every step is checked against its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._elements = 0
        self.position = 0

    def take(self, length: int) -> bytes:
        start, end = self.position, self.position + length
        if end > MAX_HEADER_BYTES:
            raise ModelFileError(f"GGUF head is longer than the {MAX_HEADER_BYTES} bytes allowed")
        if end > len(self._data):
            raise Truncated(f"GGUF head goes on after byte {len(self._data)}", end)
        self.position = end
        return self._data[start:end]

    def number(self, kind: str) -> Any:
        form = struct.Struct("<" + kind)
        return form.unpack(self.take(form.size))[0]

    def count(self, cap: int, what: str) -> int:
        value: int = self.number("Q")
        if value > cap:
            raise ModelFileError(f"GGUF file claims {value} {what}; {cap} are allowed")
        return value

    def string(self) -> str:
        data = self.take(self.count(MAX_STRING_BYTES, "bytes in a string"))
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise ModelFileError(f"GGUF string {data[:40]!r} is not UTF-8") from None

    def value(self, kind: int, nesting: int = 0) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _BOOL:
            return self.number("B") != 0
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _ARRAY or nesting == MAX_NESTING:
            raise ModelFileError(f"GGUF metadata type {kind} at nesting {nesting} is not allowed")
        element = self.number("I")
        length = self.count(MAX_ELEMENTS - self._elements, "more array elements")
        self._elements += length
        if element in _NUMBERS:
            form = struct.Struct(f"<{length}{_NUMBERS[element]}")
            return list(form.unpack(self.take(form.size)))
        return [self.value(element, nesting + 1) for _ in range(length)]

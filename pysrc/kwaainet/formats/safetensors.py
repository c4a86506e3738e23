"""SafeTensors files: where the tensors lie, from the head of the file.

Follows the format's README (``huggingface/safetensors``) and what its reader refuses. Rule of the
file: it sees bytes, never a file; it asks for more with ``Truncated`` and checks every size before it
allocates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

from ..errors import ModelFileError, Truncated, UnsupportedModel
from .json_text import parse_object
from .reading import Reading, read_head
from .stored import (
    MAX_DIMENSIONS,
    MAX_SIZE,
    MAX_TENSORS,
    StoredTensor,
    check_places,
    stored_length,
    type_problem,
)

MAX_HEADER_BYTES = 100_000_000  # the reference implementation's cap


def read_tensors(size: int) -> Reading[dict[str, StoredTensor]]:
    """The tensors of a file of ``size`` bytes, by byte range. Raises as ``parse`` does."""
    return read_head(parse, size, 8 + MAX_HEADER_BYTES)


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
    if prefix[8:9] != b"{":
        raise ModelFileError(f"not a SafeTensors file: its head begins with {prefix[8:12]!r}")
    header = parse_object(prefix[8:start], "SafeTensors head", unique=True)
    _check_metadata(header.pop("__metadata__", {}))
    if len(header) > MAX_TENSORS:
        raise ModelFileError(f"SafeTensors file has {len(header)} tensors; {MAX_TENSORS} are allowed")
    tensors = {name: _tensor(name, value, start) for name, value in header.items()}
    check_places(tensors, start, size)
    return tensors


def header_bytes(tensors: Mapping[str, tuple[int, ...]], dtype: str = "F32") -> bytes:
    """The head of a file of tensors of ``dtype`` that follow one another in the given order."""
    return header_of({name: (dtype, shape) for name, shape in tensors.items()})


def header_of(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """The head of a file of tensors (type, shape) that follow one another in the given order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + stored_length(dtype, prod(shape))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin aligned
    return len(text).to_bytes(8, "little") + text


def _check_metadata(value: Any) -> None:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ModelFileError("SafeTensors head: __metadata__ must be an object of strings")


def _tensor(name: str, value: Any, start: int) -> StoredTensor:
    where = f"SafeTensors head, tensor {name:.80}"
    if not isinstance(value, dict):
        raise ModelFileError(f"{where}: not an object but {type(value).__name__}")
    shape, offsets, dtype = _sizes(value.get("shape")), _sizes(value.get("data_offsets")), value.get("dtype")
    if shape is None or len(shape) > MAX_DIMENSIONS:
        raise ModelFileError(f"{where}: shape must be a list of up to {MAX_DIMENSIONS} sizes")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ModelFileError(f"{where}: data_offsets must be [begin, end]")
    try:
        expected = stored_length(str(dtype), prod(shape))
    except (ModelFileError, UnsupportedModel) as error:
        raise type(error)(f"{where}: {error}") from None
    length = offsets[1] - offsets[0]
    if length != expected:
        raise ModelFileError(f"{where}: {length} bytes do not hold {shape!s:.80} of {dtype}")
    return StoredTensor(str(dtype), tuple(shape), start + offsets[0], length, type_problem(str(dtype)))


def _sizes(value: Any) -> list[int] | None:
    if isinstance(value, list) and all(type(item) is int and 0 <= item < MAX_SIZE for item in value):
        return value
    return None

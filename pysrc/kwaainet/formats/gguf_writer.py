"""The head of a GGUF file, version 3: metadata, and where the tensors that follow it lie.

Follows ggml's ``docs/gguf.md``. Rule of the file: the same arguments give the same bytes; whoever
writes the tensors pads each to ``ALIGNMENT``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import prod
from typing import TypeAlias

from ..errors import InputError
from .gguf import MAGIC
from .quants import byte_length

ALIGNMENT = 32
_NUMBERS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "BF16": 30}  # of what ``quantize`` writes
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9

Value: TypeAlias = bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


def head_bytes(metadata: Mapping[str, Value], tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """All bytes before the first tensor's; ``tensors`` (type, shape slowest first) follow in their order.

    Integers become uint32, those of lists int32, other numbers float32; ``InputError`` if one does not fit.
    """
    try:
        pairs = b"".join(_string(key) + _value(value) for key, value in metadata.items())
    except struct.error as error:
        raise InputError(f"GGUF metadata cannot hold a number: {error}") from None
    infos, offset = [], 0
    for name, (dtype, shape) in tensors.items():
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        infos.append(_string(name) + dimensions + struct.pack("<IQ", _NUMBERS[dtype], offset))
        offset += padded(byte_length(dtype, prod(shape)))
    head = MAGIC + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + pairs + b"".join(infos)
    return head + bytes(padded(len(head)) - len(head))


def padded(length: int) -> int:
    """The next multiple of ``ALIGNMENT``."""
    return -(-length // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", _BOOL, value)
        case int():
            return struct.pack("<II", _UINT32, value)
        case float():
            return struct.pack("<If", _FLOAT32, value)
        case str():
            return struct.pack("<I", _STRING) + _string(value)
    texts = [item for item in value if isinstance(item, str)]
    if len(texts) == len(value) and texts:
        return struct.pack("<IIQ", _ARRAY, _STRING, len(texts)) + b"".join(map(_string, texts))
    if any(isinstance(item, float) for item in value):
        return struct.pack(f"<IIQ{len(value)}f", _ARRAY, _FLOAT32, len(value), *value)
    numbers = [item for item in value if isinstance(item, int)]
    return struct.pack(f"<IIQ{len(numbers)}i", _ARRAY, _INT32, len(numbers), *numbers)

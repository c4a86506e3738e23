"""A writer of ONNX models: just enough of ``onnx.proto`` for graphs whose weights live outside.

Follows onnx.proto3 (field numbers beside each function), opset 21 and onnxruntime's ``com.microsoft``
domain. Rule of the file: bytes in, bytes out; every function returns one encoded message, and no
weight ever enters a graph: each initializer names an external file of its own, the tensor's name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from math import prod
from typing import TypeAlias

from ..wire import varint

IR_VERSION = 10
OPSET = 21
MICROSOFT = "com.microsoft"  # onnxruntime's own operators, on every execution provider used here
_EXTERNAL = 1  # TensorProto.DataLocation
_FLOAT_ATTRIBUTE, _INT_ATTRIBUTE, _INTS_ATTRIBUTE = 1, 2, 7  # AttributeProto.AttributeType

Attribute: TypeAlias = int | float | Sequence[int]


class ElementType(IntEnum):
    """``TensorProto.DataType`` of the tensors written here."""

    FLOAT = 1
    UINT8 = 2
    INT32 = 6
    FLOAT16 = 10

    @classmethod
    def of(cls, dtype: str) -> ElementType:
        """By numpy's name: float32, float16 or uint8."""
        return {"float32": cls.FLOAT, "float16": cls.FLOAT16, "uint8": cls.UINT8}[dtype]

    @property
    def size(self) -> int:
        """Bytes of one element."""
        return {ElementType.UINT8: 1, ElementType.FLOAT16: 2}.get(self, 4)


def _number(field: int, value: int) -> bytes:
    return varint.encode(field << 3) + varint.encode(value % (1 << 64))  # int64: two's complement


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint.encode(field << 3 | 2) + varint.encode(len(data)) + data


def _attribute(name: str, value: Attribute) -> bytes:
    """AttributeProto: name 1, f 2, i 3, ints 8, type 20."""
    if isinstance(value, float):
        number = varint.encode(2 << 3 | 5) + struct.pack("<f", value)
        return _bytes(1, name) + number + _number(20, _FLOAT_ATTRIBUTE)
    if isinstance(value, Sequence):
        numbers = b"".join(_number(8, number) for number in value)
        return _bytes(1, name) + numbers + _number(20, _INTS_ATTRIBUTE)
    return _bytes(1, name) + _number(3, value) + _number(20, _INT_ATTRIBUTE)


def node(
    operator: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Attribute
) -> bytes:
    """NodeProto: input 1, output 2, name 3, op_type 4, attribute 5, domain 7.

    An empty name skips an optional input or output; the node is named after its first output, or
    after its last one where the first is skipped.
    """
    message = b"".join(_bytes(1, name) for name in inputs)
    message += b"".join(_bytes(2, name) for name in outputs)
    message += _bytes(3, outputs[0] or outputs[-1]) + _bytes(4, operator)
    message += b"".join(_bytes(5, _attribute(name, value)) for name, value in attributes.items())
    return message + (_bytes(7, domain) if domain else b"")


def value(name: str, dtype: ElementType, dims: Sequence[int | str]) -> bytes:
    """ValueInfoProto of a graph input or output; a dimension is a size or a symbol."""
    shape = b"".join(_bytes(1, _number(1, d) if isinstance(d, int) else _bytes(2, d)) for d in dims)
    tensor = _number(1, dtype) + _bytes(2, shape)
    return _bytes(1, name) + _bytes(2, _bytes(1, tensor))


def external(name: str, dtype: ElementType, dims: Sequence[int]) -> bytes:
    """TensorProto whose bytes (little-endian, row by row) are the whole external file ``name``.

    dims 1, data_type 2, name 8, external_data 13, data_location 14.
    """
    size = dtype.size * prod(dims)
    entries = {"location": name, "offset": "0", "length": str(size)}
    message = b"".join(_number(1, dim) for dim in dims) + _number(2, dtype) + _bytes(8, name)
    message += b"".join(_bytes(13, _bytes(1, key) + _bytes(2, text)) for key, text in entries.items())
    return message + _number(14, _EXTERNAL)


def model(
    nodes: Iterable[bytes], initializers: Iterable[bytes], inputs: Iterable[bytes], outputs: Iterable[bytes]
) -> bytes:
    """ModelProto: ir_version 1, producer_name 2, graph 7, opset_import 8.

    GraphProto: node 1, name 2, initializer 5, input 11, output 12; nodes in the order they run.
    """
    graph = b"".join(_bytes(1, item) for item in nodes) + _bytes(2, "span")
    for field, items in ((5, initializers), (11, inputs), (12, outputs)):
        graph += b"".join(_bytes(field, item) for item in items)
    opsets = _bytes(8, _bytes(1, "") + _number(2, OPSET)) + _bytes(8, _bytes(1, MICROSOFT) + _number(2, 1))
    return _number(1, IR_VERSION) + _bytes(2, "kwaainet") + _bytes(7, graph) + opsets

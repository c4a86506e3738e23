"""Arrays to serialized tensors and back, in any of Hivemind's compressions; and their parts.

Follows hivemind's ``compression/serialization.py`` and ``utils/streaming.py``. Rule of the file: a
tensor from a peer is checked (type, dimensions, elements, payload size) before numpy sees it, and
never needs more memory than a small multiple of the bytes that were sent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import LimitExceeded, ProtocolError, RequestError, UsageError
from ..ports import Floats
from ..wire.messages import Tensor
from . import floating, quantization

MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 25  # 2048 positions of hidden size 16384
MAX_PAYLOAD = 4 * MAX_ELEMENTS  # bytes of a tensor put together from parts
MAX_PARTS = 4096  # of one tensor; Petals sends parts of 4 MiB, Hivemind's smallest are 64 KiB

_DType: TypeAlias = np.dtype[Any]
_FLOATS: dict[str, _DType] = {name: np.dtype(name) for name in ("float16", "float32", "float64")}
_OTHERS: dict[str, _DType] = {
    name: np.dtype(name) for name in ("int64", "int32", "int16", "int8", "uint8", "bool")
}
_DTYPES = _FLOATS | _OTHERS
_BFLOAT16 = "bfloat16"


class CompressionType(IntEnum):
    """Hivemind's numbers."""

    NONE = 0
    MEANSTD_16BIT = 1
    FLOAT16 = 2
    QUANTILE_8BIT = 3
    UNIFORM_8BIT = 4
    BLOCKWISE_8BIT = 5


_TAKES_BFLOAT16 = (
    CompressionType.NONE,
    CompressionType.QUANTILE_8BIT,
    CompressionType.UNIFORM_8BIT,
    CompressionType.BLOCKWISE_8BIT,
)


# --- arrays to tensors ------------------------------------------------------------------------


def serialize(
    array: NDArray[Any], compression: CompressionType = CompressionType.NONE, dtype: str | None = None
) -> Tensor:
    """Serialize ``array`` as ``dtype`` (default: its own), which may be ``bfloat16``.

    ``NONE`` takes floats, ints and bools; the others floats, and of them MEANSTD_16BIT and FLOAT16 no
    bfloat16. Raises ``UsageError``.
    """
    name = dtype or array.dtype.name
    if name == _BFLOAT16:
        if compression not in _TAKES_BFLOAT16:
            raise UsageError(f"{compression.name} does not support bfloat16 tensors; convert to float32")
    elif name not in (_DTYPES if compression == CompressionType.NONE else _FLOATS):
        raise UsageError(f"{compression.name} does not support {name} tensors")
    return Tensor(_compress(array, compression, name), array.shape, False, name, compression)


def _compress(array: NDArray[Any], compression: CompressionType, name: str) -> bytes:
    if compression == CompressionType.NONE and name != _BFLOAT16:
        return array.astype(_DTYPES[name], copy=False).tobytes()
    values = np.ascontiguousarray(array, np.float32).reshape(array.shape)
    if compression == CompressionType.NONE:
        return floating.to_bfloat16(values)
    if name == _BFLOAT16:
        values = floating.round_bfloat16(values)
    with np.errstate(over="ignore", invalid="ignore"):
        match compression:
            case CompressionType.FLOAT16:
                return floating.to_float16(values)
            case CompressionType.MEANSTD_16BIT:
                if not array.shape:
                    raise UsageError("MEANSTD_16BIT needs a last axis; a scalar has none")
                return floating.to_meanstd(values)
            case CompressionType.QUANTILE_8BIT:
                return quantization.to_quantile(values)
            case CompressionType.UNIFORM_8BIT:
                return quantization.to_uniform(values, _mean(values, name))
            case CompressionType.BLOCKWISE_8BIT:
                return quantization.to_blockwise(values)


def _mean(values: Floats, name: str) -> Floats:
    mean = np.full((), values.mean(dtype=np.float32) if values.size else 0, np.float32)
    return floating.round_bfloat16(mean) if name == _BFLOAT16 else mean


# --- tensors to arrays ------------------------------------------------------------------------


def deserialize(tensor: Tensor) -> NDArray[Any]:
    """The array of a peer's tensor, in its shape and dtype; bfloat16 becomes float32.

    The array may be a read-only view of the tensor's buffer. Raises ``ProtocolError`` (payload and
    shape disagree), ``LimitExceeded``, or ``RequestError`` (a type that is not supported).
    """
    shape, payload = _checked_shape(tensor.size), memoryview(tensor.buffer)
    if tensor.compression == CompressionType.NONE:
        return _decode_plain(payload, shape, tensor.dtype)
    if tensor.dtype not in _FLOATS and tensor.dtype != _BFLOAT16:
        raise RequestError(
            f"compression {tensor.compression} of dtype {tensor.dtype[:40]!r} is not supported"
        )
    match tensor.compression:
        case CompressionType.FLOAT16:
            values = floating.from_float16(payload, shape)
        case CompressionType.MEANSTD_16BIT:
            if not shape:
                raise ProtocolError("MEANSTD_16BIT tensor has no axis")
            values = floating.from_meanstd(payload, shape)
        case CompressionType.QUANTILE_8BIT | CompressionType.UNIFORM_8BIT:
            values = quantization.from_codebook(payload, shape)
        case CompressionType.BLOCKWISE_8BIT:
            values = quantization.from_blockwise(payload, shape)
        case _:
            raise RequestError(f"compression {tensor.compression} is unknown; 0 … 5 are supported")
    if tensor.dtype == _BFLOAT16:
        return floating.round_bfloat16(values)
    with np.errstate(over="ignore"):
        return values.astype(_FLOATS[tensor.dtype], copy=False)


def _decode_plain(payload: memoryview, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    if name == _BFLOAT16:
        return floating.from_bfloat16(payload, shape)
    dtype = _DTYPES.get(name)
    if dtype is None:
        raise RequestError(f"dtype {name[:40]!r} is not supported; use one of {', '.join(_DTYPES)}, bfloat16")
    floating.require_size(payload, dtype.itemsize * math.prod(shape))
    if dtype.kind == "b":
        return np.frombuffer(payload, np.uint8).astype(bool).reshape(shape)
    # A message's fields start at any byte; engines want whole words.
    array: NDArray[Any] = np.frombuffer(payload, dtype).reshape(shape)
    return array if array.flags.aligned else array.copy()


def _checked_shape(size: tuple[int, ...]) -> tuple[int, ...]:
    if len(size) > MAX_DIMENSIONS:
        raise LimitExceeded(f"tensor has {len(size)} dimensions; {MAX_DIMENSIONS} are allowed")
    if math.prod(max(length, 1) for length in size) > MAX_ELEMENTS:  # numpy ignores zeros here, too
        raise LimitExceeded(f"tensor of shape {list(size)} exceeds {MAX_ELEMENTS} elements")
    return size


# --- parts of tensors, for stream RPCs --------------------------------------------------------


def split_for_streaming(tensor: Tensor, max_size: int) -> Iterator[Tensor]:
    """Parts with at most ``max_size`` bytes of payload: the first says what the tensor is and how
    many parts there are, the others only carry bytes."""
    payload = memoryview(tensor.buffer)
    starts = range(0, len(payload), max_size)
    yield replace(tensor, buffer=payload[:max_size], chunks=len(starts))
    for start in starts[1:]:
        yield Tensor(payload[start : start + max_size])


class TensorJoiner:
    """Puts the tensors of a stream back together from parts that arrive in order."""

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._payload = bytearray()  # copied, so that no part keeps its whole message alive
        self._count = 0

    def add(self, part: Tensor) -> Tensor | None:
        """The whole tensor if ``part`` was its last. Raises ``ProtocolError``, ``LimitExceeded``."""
        if self._first is None:
            if not part.dtype:
                raise ProtocolError("a tensor's first part must name its dtype")
            if part.chunks > MAX_PARTS:
                raise LimitExceeded(f"tensor announces {part.chunks} parts; {MAX_PARTS} are allowed")
            self._first = replace(part, buffer=b"")
        elif part.dtype:
            raise ProtocolError(f"next tensor starts after {self._count} of {self._first.chunks} parts")
        self._payload += part.buffer
        self._count += 1
        if len(self._payload) > MAX_PAYLOAD:
            raise LimitExceeded(f"tensor parts exceed {MAX_PAYLOAD} bytes")
        if self._count < self._first.chunks:
            return None
        whole = replace(self._first, buffer=self._payload, chunks=0)
        self._first, self._payload, self._count = None, bytearray(), 0
        return whole

    def finish(self) -> None:
        """The stream is over: ``ProtocolError`` if a tensor lacks parts."""
        if self._first is not None:
            raise ProtocolError(f"stream ends after {self._count} of a tensor's {self._first.chunks} parts")


def combine_from_streaming(parts: Iterable[Tensor]) -> Tensor:
    """The one tensor that ``split_for_streaming`` split. Raises as ``TensorJoiner`` does."""
    joiner, whole = TensorJoiner(), None
    for part in parts:
        if whole is not None:
            raise ProtocolError("tensor has more parts than it announced")
        whole = joiner.add(part)
    joiner.finish()
    if whole is None:
        raise ProtocolError("a tensor of no parts is no tensor")
    return whole

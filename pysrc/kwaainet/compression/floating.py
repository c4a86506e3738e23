"""Tensors as two-byte floats: bfloat16, FLOAT16 and MEANSTD_16BIT.

Follows hivemind's ``compression/base.py`` and ``floating.py``. Rule of the file: float32 arrays in
and out, payload bytes beside them; shapes have been checked by the codec.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import ProtocolError
from ..ports import Floats
from ..wire.varint import BytesLike

_FLOAT16_MAX = np.float32(np.finfo(np.float16).max)
_EPSILON = np.finfo(np.float32).eps  # the least deviation MEANSTD divides by


def to_bfloat16(values: Floats) -> bytes:
    """Upper halves of the floats, rounded to even as torch does; every NaN becomes 0x7FC0."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    rounded[np.isnan(values)] = 0x7FC0
    return rounded.tobytes()


def from_bfloat16(payload: BytesLike, shape: tuple[int, ...]) -> Floats:
    """Two bytes per element; or four, float32, as old peers send it."""
    count = math.prod(shape)
    if count and len(payload) == 4 * count:
        return round_bfloat16(np.frombuffer(payload, "<f4").reshape(shape))
    require_size(payload, 2 * count)
    bits = np.frombuffer(payload, "<u2").astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32).reshape(shape)


def round_bfloat16(values: Floats) -> Floats:
    """The floats that bfloat16 would keep, as float32."""
    return from_bfloat16(to_bfloat16(values), values.shape)


def to_float16(values: Floats) -> bytes:
    """FLOAT16: half floats, clamped to their range."""
    return np.clip(values, -_FLOAT16_MAX, _FLOAT16_MAX).astype("<f2").tobytes()


def from_float16(payload: BytesLike, shape: tuple[int, ...]) -> Floats:
    """Inverse of ``to_float16``."""
    require_size(payload, 2 * math.prod(shape))
    return np.frombuffer(payload, "<f2").astype(np.float32).reshape(shape)


def to_meanstd(values: Floats) -> bytes:
    """MEANSTD_16BIT: half floats of deviations, then mean and deviation of each last-axis row.

    Rows of no elements have NaN statistics, as in Hivemind.
    """
    if not values.shape[-1]:
        rows = math.prod(values.shape[:-1])
        return np.full(2 * rows, np.nan, "<f4").tobytes()
    means = values.mean(axis=-1, keepdims=True, dtype=np.float32)
    centred = values - means
    norms = np.sqrt(np.square(centred).sum(axis=-1, keepdims=True, dtype=np.float32))
    deviations = np.maximum(norms / np.float32(math.sqrt(values.shape[-1])), _EPSILON)
    return b"".join((to_float16(centred / deviations), means.tobytes(), deviations.tobytes()))


def from_meanstd(payload: BytesLike, shape: tuple[int, ...]) -> Floats:
    """Inverse of ``to_meanstd``; the shape has at least one dimension."""
    count, rows = math.prod(shape), math.prod(shape[:-1])
    require_size(payload, 2 * count + 8 * rows)
    view = memoryview(payload)
    values = from_float16(view[: 2 * count], shape)
    statistics = np.frombuffer(view[2 * count :], "<f4").reshape(2, *shape[:-1], 1)
    with np.errstate(all="ignore"):  # a peer's infinities are the peer's
        values *= statistics[1]
        values += statistics[0]
    return values


def require_size(payload: BytesLike, expected: int) -> None:
    """``ProtocolError`` unless the payload has as many bytes as its shape asks for."""
    if len(payload) != expected:
        raise ProtocolError(f"tensor has {len(payload)} bytes of payload where its shape asks for {expected}")

"""Tensors as one-byte indices: QUANTILE_8BIT, UNIFORM_8BIT and BLOCKWISE_8BIT.

Follows hivemind's ``compression/quantization.py`` and bitsandbytes' ``create_dynamic_map`` and CPU
``quantize_blockwise``; sums run in float32 in memory order, as there, so that bytes agree.
Rule of the file: float32 arrays in and out, payload bytes beside them.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..errors import ProtocolError
from ..ports import Floats
from ..wire.varint import BytesLike
from .floating import require_size

BINS = 256
BLOCK = 4096  # elements that share one scale in BLOCKWISE_8BIT
_RANGE_IN_SIGMAS = np.float32(6)
_QUANTILE_CHUNK = 100_000  # elements whose quantiles are taken exactly

_Indices = NDArray[np.uint8]


# --- one codebook for the whole tensor --------------------------------------------------------


def to_quantile(values: Floats) -> bytes:
    """QUANTILE_8BIT: buckets of equal population."""
    flat = values.reshape(-1)
    if not flat.size:
        return _pack(np.zeros(BINS, np.float32), np.zeros(0, np.uint8))
    borders = _quantiles_of_quantiles(flat, BINS + 1)[1:-1]
    indices = np.searchsorted(borders, flat).astype(np.uint8)
    return _pack(_average_buckets(flat, indices), indices)


def to_uniform(values: Floats, mean: Floats) -> bytes:
    """UNIFORM_8BIT: buckets of equal width, six standard deviations in all.

    ``mean`` is a scalar, rounded as the tensor's own type would be. A tensor without spread falls
    into the middle bucket.
    """
    flat = values.reshape(-1)
    centred = flat - mean
    norm = np.sqrt(np.square(centred).sum(dtype=np.float32))
    scale = (
        _RANGE_IN_SIGMAS * np.float32(norm / np.float32(math.sqrt(max(flat.size - 1, 1)))) / np.float32(BINS)
    )
    with np.errstate(all="ignore"):
        steps = np.rint(centred * (np.float32(1) / scale)) + BINS // 2
    indices = np.clip(np.nan_to_num(steps, nan=BINS // 2), 0, BINS - 1).astype(np.uint8)
    return _pack(_average_buckets(flat, indices), indices)


def from_codebook(payload: BytesLike, shape: tuple[int, ...]) -> Floats:
    """Inverse of ``to_quantile`` and ``to_uniform``."""
    require_size(payload, 8 + 4 * BINS + math.prod(shape))
    _require_count("codebook entries", np.frombuffer(payload, "<i8", 1)[0], BINS)
    codebook = np.frombuffer(payload, "<f4", BINS, 8).astype(np.float32)
    return codebook[np.frombuffer(payload, np.uint8, offset=8 + 4 * BINS)].reshape(shape)


def _pack(codebook: Floats, indices: _Indices) -> bytes:
    return np.int64(BINS).tobytes() + codebook.tobytes() + indices.tobytes()


def _average_buckets(flat: Floats, indices: _Indices) -> Floats:
    """Mean of the values in each bucket; 0 where it is empty."""
    sums = np.zeros(BINS, np.float32)
    np.add.at(sums, indices, flat)
    counts = np.maximum(np.bincount(indices, minlength=BINS), 1)
    sums /= counts.astype(np.float32)
    return sums


def _quantiles_of_quantiles(flat: Floats, count: int) -> Floats:
    """Quantiles of the quantiles of chunks: near the true ones, without sorting everything."""
    points = np.linspace(0.0, 1.0, num=count, dtype=np.float32)
    size = _chunk_size(flat.size)
    chunks = [np.quantile(flat[start : start + size], points) for start in range(0, flat.size, size)]
    return np.quantile(np.array(chunks, np.float32), points).astype(np.float32)


def _chunk_size(elements: int) -> int:
    """At least ``_QUANTILE_CHUNK``, and such that the last chunk is no small rest."""
    if elements <= _QUANTILE_CHUNK:
        return _QUANTILE_CHUNK
    chunks, rest = divmod(elements, _QUANTILE_CHUNK)
    return _QUANTILE_CHUNK + (rest - 1) // chunks + 1


# --- one scale per block ----------------------------------------------------------------------


def to_blockwise(values: Floats) -> bytes:
    """BLOCKWISE_8BIT: a fixed codebook, dense near zero, scaled to each block's largest magnitude."""
    flat = values.reshape(-1)
    blocks = -(-flat.size // BLOCK)
    padded = np.zeros((blocks, BLOCK), np.float32)
    padded.reshape(-1)[: flat.size] = flat
    scales = np.abs(padded).max(axis=1) if blocks else np.zeros(0, np.float32)
    padded /= np.where(scales == 0, np.float32(1), scales)[:, None]
    indices = _nearest(dynamic_map(), padded.reshape(-1)[: flat.size])
    counts = np.array([blocks, BINS], "<i8")
    return counts.tobytes() + scales.tobytes() + dynamic_map().tobytes() + indices.tobytes()


def from_blockwise(payload: BytesLike, shape: tuple[int, ...]) -> Floats:
    """Inverse of ``to_blockwise``, with whatever codebook the payload holds."""
    count = math.prod(shape)
    blocks = -(-count // BLOCK)
    require_size(payload, 16 + 4 * blocks + 4 * BINS + count)
    counts = np.frombuffer(payload, "<i8", 2)
    _require_count("block scales", counts[0], blocks)
    _require_count("codebook entries", counts[1], BINS)
    scales = np.frombuffer(payload, "<f4", blocks, 16)
    codebook = np.frombuffer(payload, "<f4", BINS, 16 + 4 * blocks).astype(np.float32)
    values = codebook[np.frombuffer(payload, np.uint8, offset=16 + 4 * blocks + 4 * BINS)]
    whole = count // BLOCK * BLOCK
    with np.errstate(all="ignore"):  # a peer's infinities are the peer's
        values[:whole].reshape(-1, BLOCK)[...] *= scales[: whole // BLOCK, None]
        if whole < count:
            values[whole:] *= scales[-1]
    return values.reshape(shape)


@cache
def dynamic_map() -> Floats:
    """bitsandbytes' signed 8-bit codebook, sorted, float32[256].

    Seven decades; each next one holds twice as many values, the means between equidistant borders.
    The lowest is -1 because the CPU quantizer of bitsandbytes overwrites it so.
    """
    values = [np.float32(0), np.float32(1)]
    for exponent in range(7):
        borders = _linspace(np.float32(0.1), np.float32(1), 2**exponent + 1)
        means = np.float32(10.0 ** (exponent - 6)) * ((borders[:-1] + borders[1:]) / np.float32(2))
        values += [*means, *-means]
    codebook = np.sort(np.array(values, np.float32))
    codebook[0] = -1
    codebook.flags.writeable = False
    return codebook


def _linspace(first: np.float32, last: np.float32, count: int) -> Floats:
    """torch's float32 linspace: counts from both ends, each value rounded once (fused multiply-add)."""
    step = float((last - first) / np.float32(count - 1))
    forward = np.arange(count, dtype=np.float64)
    values = np.where(forward < count // 2, float(first) + step * forward, float(last) - step * forward[::-1])
    return values.astype(np.float32)


def _nearest(codebook: Floats, values: Floats) -> _Indices:
    """Index of the closest entry of a sorted codebook; the lower one if two are as close."""
    left = np.clip(np.searchsorted(codebook, values, side="right") - 1, 0, BINS - 1)
    right = np.minimum(left + 1, BINS - 1)
    left += np.abs(values - codebook[right]) < np.abs(values - codebook[left])
    return left.astype(np.uint8)


def _require_count(what: str, found: np.int64, expected: int) -> None:
    if found != expected:
        raise ProtocolError(f"quantized tensor claims {found} {what}; its shape asks for {expected}")

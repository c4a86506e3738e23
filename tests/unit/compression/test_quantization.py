"""One-byte quantizers: codebooks, error bounds, degenerate tensors, and damaged payloads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kwaainet.compression import quantization
from kwaainet.compression.quantization import BINS, BLOCK
from kwaainet.errors import ProtocolError
from kwaainet.ports import Floats

TAME_FLOATS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
    elements=st.floats(-1e3, 1e3, width=32),
)


def normal(*shape: int) -> Floats:
    return np.random.default_rng(7).standard_normal(shape, np.float32)


def uniform(values: Floats) -> bytes:
    return quantization.to_uniform(values, np.float32(values.mean() if values.size else 0))


CODEBOOKS = [quantization.to_quantile, uniform]


@pytest.mark.parametrize("encode", CODEBOOKS)
def test_codebook_errors_are_a_bucket_wide(encode: Callable[[Floats], bytes]) -> None:
    values = normal(3, 50, 41)
    again = quantization.from_codebook(encode(values), values.shape)
    assert np.abs(again - values).mean() < 0.02
    assert np.abs(again.mean() - values.mean()) < 1e-3


@pytest.mark.parametrize("encode", CODEBOOKS)
@given(values=TAME_FLOATS)
def test_codebook_round_trip_stays_in_range(encode: Callable[[Floats], bytes], values: Floats) -> None:
    payload = encode(values)
    assert len(payload) == 8 + 4 * BINS + values.size
    again = quantization.from_codebook(payload, values.shape)
    assert again.shape == values.shape
    if values.size:
        slack = np.abs(values).max() * 1e-5 + 1e-6
        assert again.min() >= values.min() - slack
        assert again.max() <= values.max() + slack


@pytest.mark.parametrize("encode", CODEBOOKS)
@pytest.mark.parametrize("values", [[], [2.5], [2.5, 2.5, 2.5]])
def test_tensors_without_spread_survive(encode: Callable[[Floats], bytes], values: list[float]) -> None:
    array = np.array(values, np.float32)
    np.testing.assert_array_equal(quantization.from_codebook(encode(array), array.shape), array)


def test_uniform_buckets_are_centred_and_clamped() -> None:
    values = np.array([0.0] * 98 + [-100.0, 100.0], np.float32)
    indices = quantization.to_uniform(values, np.float32(0))[8 + 4 * BINS :]
    assert (indices[0], indices[98], indices[99]) == (128, 0, 255)


def test_quantile_buckets_are_equally_full() -> None:
    indices = np.frombuffer(quantization.to_quantile(normal(BINS * 40)), np.uint8, offset=8 + 4 * BINS)
    counts = np.bincount(indices, minlength=BINS)
    assert counts.min() >= 38
    assert counts.max() <= 42


def test_quantiles_of_large_tensors_go_by_chunks() -> None:
    values = normal(250_001)
    again = quantization.from_codebook(quantization.to_quantile(values), values.shape)
    assert np.abs(again - values).mean() < 0.02


def test_non_finite_values_do_not_raise() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    with np.errstate(all="ignore"):
        for encode in (*CODEBOOKS, quantization.to_blockwise):
            assert len(encode(values)) > BINS


def test_dynamic_map_is_bitsandbytes() -> None:
    codebook = quantization.dynamic_map()
    assert codebook.shape == (BINS,)
    assert np.all(np.diff(codebook) > 0)
    assert (codebook[0], codebook[127], codebook[255]) == (-1, 0, 1)
    np.testing.assert_array_equal(codebook[1:127], -codebook[128:254][::-1])
    assert codebook[254] == np.float32(0.99296875)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
def test_blockwise_errors_scale_with_the_block(size: int) -> None:
    values = normal(size) * np.repeat(np.float32([1, 1000, 0.001, 1]), BLOCK)[:size]
    payload = quantization.to_blockwise(values)
    assert len(payload) == 16 + 4 * -(-size // BLOCK) + 4 * BINS + size
    again = quantization.from_blockwise(payload, (size,))
    for start in range(0, size, BLOCK):
        block = values[start : start + BLOCK]
        assert np.abs(again[start : start + BLOCK] - block).max() <= np.abs(block).max() * 0.011


def test_blockwise_keeps_extremes_and_zeros() -> None:
    values = np.array([[0.0, -3.0, 3.0, 0.0]], np.float32)
    np.testing.assert_array_equal(
        quantization.from_blockwise(quantization.to_blockwise(values), (1, 4)), values
    )
    zeros = np.zeros(5, np.float32)
    np.testing.assert_array_equal(quantization.from_blockwise(quantization.to_blockwise(zeros), (5,)), zeros)


def test_blockwise_uses_the_peers_codebook() -> None:
    codebook = np.arange(BINS, dtype="<f4")
    payload = (
        np.array([1, BINS], "<i8").tobytes() + np.float32([2]).tobytes() + codebook.tobytes() + b"\x00\xff"
    )
    np.testing.assert_array_equal(quantization.from_blockwise(payload, (2,)), np.float32([0, 510]))


@pytest.mark.parametrize("count", [0, 255, 257, -1, 2**62])
def test_foreign_codebook_sizes_are_refused(count: int) -> None:
    payload = bytearray(quantization.to_quantile(normal(6)))
    payload[:8] = count.to_bytes(8, "little", signed=True)
    with pytest.raises(ProtocolError, match=f"{count} codebook entries"):
        quantization.from_codebook(payload, (6,))


@pytest.mark.parametrize(("place", "what"), [(0, "block scales"), (8, "codebook entries")])
def test_foreign_block_counts_are_refused(place: int, what: str) -> None:
    payload = bytearray(quantization.to_blockwise(normal(6)))
    payload[place : place + 8] = (2**62).to_bytes(8, "little")
    with pytest.raises(ProtocolError, match=what):
        quantization.from_blockwise(payload, (6,))


@pytest.mark.parametrize("change", [slice(None, -1), slice(7)])
def test_truncated_payloads_are_refused(change: slice) -> None:
    values = normal(6)
    with pytest.raises(ProtocolError, match="asks for"):
        quantization.from_codebook(quantization.to_quantile(values)[change], (6,))
    with pytest.raises(ProtocolError, match="asks for"):
        quantization.from_blockwise(quantization.to_blockwise(values)[change], (6,))

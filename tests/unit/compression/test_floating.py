"""Two-byte floats: rounding at its edges, known payloads, and payloads that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kwaainet.compression import floating
from kwaainet.errors import ProtocolError
from kwaainet.ports import Floats

SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6)
ANY_FLOATS = arrays.arrays(np.float32, SHAPES)
TAME_FLOATS = arrays.arrays(np.float32, SHAPES, elements=st.floats(-1e3, 1e3, width=32))


def from_bits(*bits: int) -> Floats:
    return np.array(bits, np.uint32).view(np.float32)


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (0x3F800000, 0x3F80),  # 1.0
        (0x3F807FFF, 0x3F80),  # just below the middle: down
        (0x3F808000, 0x3F80),  # the middle: to even, down
        (0x3F818000, 0x3F82),  # the middle: to even, up
        (0x3F808001, 0x3F81),  # just above: up
        (0x7F7FFFFF, 0x7F80),  # the largest float32 becomes infinity
        (0xFF800000, 0xFF80),  # -infinity stays
        (0x80000000, 0x8000),  # -0 stays
        (0x7F800001, 0x7FC0),  # a NaN must not become infinity
        (0xFFFFFFFF, 0x7FC0),
    ],
)
def test_bfloat16_rounds_to_even(bits: int, expected: int) -> None:
    assert floating.to_bfloat16(from_bits(bits)) == expected.to_bytes(2, "little")


@given(ANY_FLOATS)
def test_bfloat16_keeps_what_it_can_hold(values: Floats) -> None:
    kept = floating.round_bfloat16(values)
    assert kept.shape == values.shape
    np.testing.assert_array_equal(floating.round_bfloat16(kept), kept)
    finite = np.isfinite(kept)
    assert np.all(np.abs(kept[finite] - values[finite]) <= np.abs(values[finite]) / 256 + 1e-38)


def test_bfloat16_of_old_peers_is_float32() -> None:
    values = np.array([[1.0, 3.14159]], np.float32)
    again = floating.from_bfloat16(values.tobytes(), (1, 2))
    np.testing.assert_array_equal(again, floating.round_bfloat16(values))


def test_float16_clamps_what_it_cannot_hold() -> None:
    values = np.array([1e9, -1e9, np.inf, 0.1], np.float32)
    again = floating.from_float16(floating.to_float16(values), (4,))
    np.testing.assert_array_equal(again, np.array([65504, -65504, 65504, np.float16(0.1)], np.float32))


@given(TAME_FLOATS)
def test_float16_round_trip(values: Floats) -> None:
    again = floating.from_float16(floating.to_float16(values), values.shape)
    np.testing.assert_array_equal(again, values.astype(np.float16).astype(np.float32))


def test_meanstd_payload() -> None:
    payload = floating.to_meanstd(np.array([[1.0, 3.0]], np.float32))
    assert payload == np.array([-1, 1], "<f2").tobytes() + np.array([2, 1], "<f4").tobytes()


@given(TAME_FLOATS)
def test_meanstd_round_trip_is_close(values: Floats) -> None:
    again = floating.from_meanstd(floating.to_meanstd(values), values.shape)
    assert again.shape == values.shape
    if values.size:
        spread = values.std(axis=-1, keepdims=True) + np.abs(values).max() * 1e-6
        assert np.all(np.abs(again - values) <= spread * 0.01 + 1e-6)


def test_constant_rows_survive_meanstd() -> None:
    values = np.full((2, 3), 7.5, np.float32)
    np.testing.assert_array_equal(floating.from_meanstd(floating.to_meanstd(values), (2, 3)), values)


def test_rows_of_nothing_have_statistics_as_in_hivemind() -> None:
    assert len(floating.to_meanstd(np.zeros((3, 0), np.float32))) == 24
    assert floating.from_meanstd(bytes(8), (0,)).shape == (0,)


@pytest.mark.parametrize(
    ("decode", "size"),
    [(floating.from_bfloat16, 12), (floating.from_float16, 12), (floating.from_meanstd, 28)],
)
@pytest.mark.parametrize("change", [-1, 1])
def test_payloads_of_the_wrong_size_are_refused(decode: object, size: int, change: int) -> None:
    assert callable(decode)
    decode(bytes(size), (2, 3))
    with pytest.raises(ProtocolError, match=f"{size + change} bytes .* asks for {size}"):
        decode(bytes(size + change), (2, 3))

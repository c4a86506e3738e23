"""Repacked blocks hold the file's numbers."""

from __future__ import annotations

import numpy as np
import pytest

from kwaainet.errors import InputError
from kwaainet.formats.quants import STORAGE_TYPES
from kwaainet.formats.weights import Weight
from kwaainet.inference.nbits import BITS, repack, side_by_side
from kwaainet.testing.model import TINY

ROWS, COLUMNS = 8, 96  # two heads of TINY, three blocks


def random_weight(dtype: str, seed: int = 0, permuted: bool = False) -> Weight:
    """Blocks of every quant with scales (and minima) of both signs, and some of scale 0."""
    random = np.random.default_rng(seed)
    raw = random.integers(0, 256, (ROWS * COLUMNS // 32, STORAGE_TYPES[dtype].size), np.uint8)
    halves = raw[:, : 4 if dtype == "Q4_1" else 2].view("<f2")
    halves[:] = random.standard_normal(halves.shape)
    halves[::5, 0] = 0
    return Weight(dtype, (ROWS, COLUMNS), raw.tobytes(), permuted)


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("permuted", [False, True])
def test_repacking_keeps_every_number(dtype: str, permuted: bool) -> None:
    weight = random_weight(dtype, permuted=permuted)
    blocks = repack(weight, TINY)
    assert blocks.bits == BITS[dtype]
    assert blocks.quants.shape == (ROWS, COLUMNS // 32, 4 * blocks.bits)
    assert blocks.scales.shape == (ROWS, COLUMNS // 32)
    tolerance = 1e-6 if dtype == "Q4_1" else 0  # a zero of -m/d is rounded, all else is exact
    np.testing.assert_allclose(blocks.floats(), weight.floats(TINY), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", BITS)
def test_four_and_eight_bits_take_little_more_than_in_the_file(dtype: str) -> None:
    weight = random_weight(dtype)
    blocks = repack(weight, TINY)
    size = sum(array.nbytes for array in (blocks.quants, blocks.scales, blocks.zeros) if array is not None)
    assert size <= 1.2 * len(weight.data)


def test_other_types_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="F16 blocks cannot be repacked; Q4_0, Q4_1, Q8_0 can"):
        repack(Weight("F16", (1, 32), bytes(64)), TINY)


def test_matrices_lie_side_by_side_also_where_only_one_has_zeros() -> None:
    weights = [random_weight(dtype, seed) for seed, dtype in enumerate(("Q4_0", "Q4_1", "Q4_0"))]
    both = side_by_side([repack(weight, TINY) for weight in weights])
    expected = np.concatenate([weight.floats(TINY) for weight in weights])
    np.testing.assert_allclose(both.floats(), expected, rtol=0, atol=1e-6)
    alike = side_by_side([repack(random_weight("Q8_0", seed), TINY) for seed in range(2)])
    assert alike.zeros is None
    assert alike.scales.shape == (2 * ROWS, COLUMNS // 32)

"""Both tables against the numbers that the paper's table 1 names, and the order of floats."""

from __future__ import annotations

import numpy as np
import pytest

from kwaainet.formats.float8 import NUMBERS
from kwaainet.formats.quants import dequantize

KNOWN = {
    "F8_E4M3": {0x01: 2.0**-9, 0x07: 0.875 * 2.0**-6, 0x08: 2.0**-6, 0x38: 1.0, 0x7E: 448.0, 0xB8: -1.0},
    "F8_E5M2": {0x01: 2.0**-16, 0x03: 0.75 * 2.0**-14, 0x04: 2.0**-14, 0x3C: 1.0, 0x7B: 57344.0, 0xBC: -1.0},
}


@pytest.mark.parametrize("dtype", list(KNOWN))
def test_numbers_are_those_of_the_paper(dtype: str) -> None:
    codes = bytes(KNOWN[dtype])
    np.testing.assert_array_equal(dequantize(dtype, codes, len(codes)), list(KNOWN[dtype].values()))
    numbers = NUMBERS[dtype]
    finite = numbers[:128][np.isfinite(numbers[:128])]
    assert (np.diff(finite) > 0).all()
    np.testing.assert_array_equal(numbers[128:], -numbers[:128])
    assert len(finite) == {"F8_E4M3": 127, "F8_E5M2": 124}[dtype]
    assert np.isnan(numbers[127])

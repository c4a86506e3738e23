"""The two 8-bit floats of weights, as the 256 numbers that their bytes stand for.

Follows "FP8 Formats for Deep Learning" (Micikevicius et al. 2022), which ``torch.float8_e4m3fn`` and
``torch.float8_e5m2`` implement. Rule of the file: a table each; nothing is computed per weight.
"""

from __future__ import annotations

import numpy as np

from ..ports import Floats


def _e4m3() -> Floats:
    """Four bits of exponent, no infinity: only all ones are no number."""
    codes = np.arange(256)
    exponents, fractions = codes >> 3 & 15, codes & 7
    sizes = np.where(exponents == 0, np.ldexp(fractions, -9), np.ldexp(8.0 + fractions, exponents - 10))
    sizes[codes & 127 == 127] = np.nan
    numbers: Floats = np.where(codes < 128, sizes, -sizes).astype(np.float32)
    return numbers


def _e5m2() -> Floats:
    """The upper half of a float16."""
    return (np.arange(256, dtype="<u2") << 8).astype("<u2").view("<f2").astype(np.float32)


NUMBERS = {"F8_E4M3": _e4m3(), "F8_E5M2": _e5m2()}

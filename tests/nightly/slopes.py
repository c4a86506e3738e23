"""Whether a figure grows: the slope of a line through samples, with the interval that holds it.

Ordinary least squares over the means of equal stretches of time, not over single samples: what is
measured a second apart is not independent, and an interval from it would be far too narrow.
Rule of the file: numbers in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STRETCHES = 12  # means that the line is laid through
# Two-sided 95 % points of Student's t by degrees of freedom, for 3 to 30 stretches.
_T95 = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)
_T95 += (2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048)


@dataclass(frozen=True, slots=True)
class Slope:
    """``rate`` per hour between ``low`` and ``high`` (95 %), about a mean of ``level``."""

    rate: float
    low: float
    high: float
    level: float

    @property
    def is_zero(self) -> bool:
        """Whether the samples do not tell it from zero, or it falls."""
        return self.low <= 0

    def __str__(self) -> str:
        return f"{self.rate:+.4g} an hour ({self.low:+.4g} to {self.high:+.4g}) about {self.level:.4g}"


def slope(seconds: Sequence[float], values: Sequence[float], stretches: int = STRETCHES) -> Slope:
    """The slope of ``values`` over ``seconds``, from the means of ``stretches`` (3 to 30) equal parts."""
    if len(values) < stretches:
        raise ValueError(f"{len(values)} samples give no {stretches} stretches")
    times = np.array([part.mean() for part in np.array_split(np.asarray(seconds, float) / 3600, stretches)])
    means = np.array([part.mean() for part in np.array_split(np.asarray(values, float), stretches)])
    centred = times - times.mean()
    spread = float(centred @ centred)
    rate = float(centred @ means) / spread
    left = means - means.mean() - rate * centred
    error = math.sqrt(float(left @ left) / (stretches - 2) / spread) * _T95[stretches - 3]
    return Slope(rate, rate - error, rate + error, float(means.mean()))

"""How long a proof takes: ``make nightly`` runs it whole, ``make test`` in a short form.

Rule of the folder: one test, two sizes. What a night is for (two hours, a million inputs, thirty reloads)
is ``size(short, whole)``, where the short form takes seconds and goes the same way through the code.
"""

from __future__ import annotations

import os
from typing import TypeVar

SWITCH = "KWAAINET_NIGHTLY"
Size = TypeVar("Size", int, float, str)


def whole() -> bool:
    """Whether this run is a night's."""
    return os.environ.get(SWITCH, "") not in ("", "0")


def size(short: Size, whole_size: Size) -> Size:
    """``whole_size`` at night, else ``short``."""
    return whole_size if whole() else short

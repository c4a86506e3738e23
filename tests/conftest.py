"""What every suite shares: which browser is driven, and how patient the property tests are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

BUNDLED_CHROMIUM = Path(__file__).parents[1] / ".cache" / "chromium" / "headless-chromium"

# Not whatever browser the machine has: the locked one, so that every machine tests the same.
if BUNDLED_CHROMIUM.is_file():
    os.environ.setdefault("KWAAINET_CHROMIUM", str(BUNDLED_CHROMIUM))

# A loaded machine, or WebAssembly, is slow; that says nothing about the code under test.
# What holds for any input is tried with fewer of them inside Pyodide: the place is tested there.
EXAMPLES = 20 if sys.platform == "emscripten" else 100
settings.register_profile(
    "patient", deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")

"""What every suite shares: which browser is driven, how patient property tests are, what is forked from."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from nightly.sizes import size

BUNDLED_CHROMIUM = Path(__file__).parents[1] / ".cache" / "chromium" / "headless-chromium"

# Not whatever browser the machine has: the locked one, so that every machine tests the same.
if BUNDLED_CHROMIUM.is_file():
    os.environ.setdefault("KWAAINET_CHROMIUM", str(BUNDLED_CHROMIUM))

# A loaded machine, or WebAssembly, is slow; that says nothing about the code under test.
# What holds for any input is tried with fewer of them inside Pyodide: the place is tested there.
EXAMPLES = size(10, 100) if sys.platform == "emscripten" else 100
settings.register_profile(
    "patient", deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """What processes are forked from is there once for all workers, who come and go."""
    if sys.platform != "emscripten" and not hasattr(config, "workerinput"):
        from interop.forked import kept  # Pyodide has no processes

        place = kept()
        place.__enter__()
        config.add_cleanup(lambda: place.__exit__(None, None, None))


def pytest_collection_finish() -> None:
    """Five thousand tests and what they import stay: who looks for garbage need not go through them again."""
    gc.collect()
    gc.freeze()

"""What every suite shares: the browser that `make setup` unpacked is the one the tests drive."""

from __future__ import annotations

import os
from pathlib import Path

BUNDLED_CHROMIUM = Path(__file__).parents[1] / ".cache" / "chromium" / "headless-chromium"

# Not whatever browser the machine has: the locked one, so that every machine tests the same.
if BUNDLED_CHROMIUM.is_file():
    os.environ.setdefault("KWAAINET_CHROMIUM", str(BUNDLED_CHROMIUM))

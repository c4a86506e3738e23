"""The relay is gone for a minute and comes back; ``tests/browser/test_recovery.py`` is the short form."""

from __future__ import annotations

import asyncio
from pathlib import Path

from browser.fixed_relay import FixedRelay
from browser.test_recovery import away_and_back

AWAY = 60.0  # seconds


def test_a_relay_that_was_away(small_model: Path, tmp_path: Path) -> None:
    asyncio.run(away_and_back(FixedRelay(tmp_path, small_model), small_model, AWAY))

"""Real tabs are killed, closed and reloaded at random while users generate; no token may be wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from browser.soak import Report, soak

SPANS = ("0:3", "0:2", "1:3")


def test_no_token_is_wrong_while_tabs_go(origin: dict[str, Any], small_model: Path) -> None:
    def is_over(report: Report) -> bool:
        survived = report.ended.total() >= 2 and report.failovers >= 1
        return survived or bool(report.wrong or report.lost)

    report = asyncio.run(soak(origin, small_model, is_over, spans=SPANS, pause=1.0, seed=1))
    print(report)
    assert not report.wrong
    assert not report.lost

"""What a second thread gains a tab in real Chromium, on a page that is isolated as the relay's is.

``make bench ARGS=threads``. Rule of the file: both counts compute in turns and by the clock, and a ratio is
the median of rounds, one beside the other: it is of a quiet machine only, where two cores are free.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from interop.running import ROOT, Failed

from kwaainet.native.chromium import Browser

from .kernel import SMOL, TINY, write_span
from .report import Result, Row
from .site import HERE, site

TIMEOUT = 600.0
THREADS = 2


def measure(folder: Path, rounds: int) -> Result:
    """Rows for each model's block; needs Chromium."""
    rows: list[Row] = []
    figures: dict[str, Any] = {}
    with site(folder, "threads.html", HERE / "threads.ts", ROOT / "web/worker/thread.ts") as address:
        for name, sizes, formats in (TINY, SMOL):
            write_span(folder / "span", sizes, "Q4_0", formats["Q4_0"])
            found = asyncio.run(_timed(address, 4 * rounds))
            figures[name] = found
            rows += _rows(name, found["times"])
    return Result(rows, figures)


async def _timed(address: str, rounds: int) -> dict[str, Any]:
    request = json.dumps({"span": f"{address}/span", "rounds": rounds, "threads": THREADS})
    async with await Browser.launch() as browser:
        page = await browser.open_page(f"{address}/threads.html")
        found: dict[str, Any] = await page.evaluate(f"time({request})", TIMEOUT)
    if not found["isolated"] or found["counts"] != [1, THREADS]:
        raise Failed(
            f"{found['counts']} threads computed, isolated: {found['isolated']}; 1 and {THREADS} should"
        )
    return found


def _rows(name: str, times: dict[str, dict[str, Sequence[float]]]) -> list[Row]:
    one, two = times["1"], times[str(THREADS)]
    rows = []
    for kind, what in (("decode", "decode"), ("prefill", "prefill of 128")):
        ratio = median(alone / both for alone, both in zip(one[kind], two[kind], strict=True))
        rows.append(
            Row(
                f"{name}, Q4_0, in Chromium: {what} on {THREADS} threads, and on one",
                f"{median(two[kind]):.2f} ms",
                f"{median(one[kind]):.2f} ms",
                ratio,
            )
        )
    return rows

"""How long a phone on 4G looks at nothing: the time to the first contentful paint, and to the button's use.

Each round is a new browser with an empty profile, on the profiles of ``browser.painting``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from statistics import median
from typing import Any

from browser.painting import MBITS, first_paint, throttle
from interop.running import relay

from kwaainet.native.chromium import Browser

from .model import GGUF, PREFIX
from .report import Result, Row

GOAL = 1.5  # seconds
READY = """
new Promise(resolve => {
  const look = () => {
    const said = document.getElementById('preflight-summary').textContent.includes('can contribute')
    if (said) resolve(performance.now())
    else setTimeout(look, 10)
  }
  look()
})
"""


def measure(folder: Path, rounds: int) -> Result:
    """Needs the default model and the headless Chromium."""
    figures: dict[str, list[dict[str, Any]]] = {profile: [] for profile in MBITS}
    with relay(folder, "--model", GGUF, "--prefix", PREFIX) as ready:
        for _ in range(rounds):
            for profile in MBITS:
                figures[profile].append(asyncio.run(_visit(ready["http"], profile)))
    return Result([_row(profile, figures[profile]) for profile in MBITS], figures)


def _row(profile: str, visits: list[dict[str, Any]]) -> Row:
    paint, ready = (median(visit[name] for visit in visits) / 1e3 for name in ("time", "ready"))
    what = f"first contentful paint, {profile} ({MBITS[profile]:g} Mbit/s, 150 ms, processor 4 times slower)"
    goal = f"< {GOAL} s" if profile == "4G" else ""
    return Row(what, f"{paint:.2f} s, checks done after {ready:.1f} s", goal=goal)


async def _visit(url: str, profile: str) -> dict[str, Any]:
    async with await Browser.launch() as browser:
        page = await browser.new_page(watch_network=True)
        await throttle(page, profile)
        await page.goto(url)
        found = await first_paint(page)
        return {**found, "ready": await page.evaluate(READY)}

"""How long a phone on 4G looks at nothing: until the first contentful paint, and until the checks are done.

Each round is a new browser with an empty profile, on the profiles of ``browser.painting``. It paints six
bytes of plain text from the same relay first: no page can be sooner on that machine, and the browser is up
then, as a visitor's is.
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
    names = ("time", "ready", "text")
    paint, ready, text = (median(visit[name] for visit in visits) / 1e3 for name in names)
    what = f"first contentful paint, {profile} ({MBITS[profile]:g} Mbit/s, 150 ms, processor 4 times slower)"
    goal = f"< {GOAL} s" if profile == "4G" else ""
    ours = f"{paint:.2f} s, checks done after {ready:.1f} s"
    return Row(what, ours, f"{text:.2f} s (six bytes of plain text)", text / paint, goal)


async def _visit(url: str, profile: str) -> dict[str, Any]:
    async with await Browser.launch() as browser:
        times = []
        for address in (
            f"{url.replace('127.0.0.1', 'localhost')}healthz",
            url,
        ):  # two hosts: no connection is kept
            page = await browser.new_page(watch_network=True)
            await throttle(page, profile)
            await page.goto(address)
            times.append((await first_paint(page))["time"])
        return {"text": times[0], "time": times[1], "ready": await page.evaluate(READY)}

"""What a message costs between two tabs: directly by WebRTC, and through the relay's circuit.

Pages without Python echo messages of the size of a decode step through the network workers of
contributing tabs, in one browser; both ways take turns. Times are round trips as the calling page's
script sees them, so its two hops between page and worker are in both.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from statistics import median
from typing import Any

from browser.callers import Caller, calling_relay

from kwaainet.native.chromium import Browser

from .report import Result, Row

SIZES = {"2 kB": 2_000, "4 kB": 4_000, "10 kB": 10_000, "64 kB": 64_000}
TURN = 20  # echoes of one way before the other has its turn
WARM_UP = 1  # turns
WAYS = ("webrtc", "circuit")


def measure(folder: Path, rounds: int) -> Result:
    """Needs the headless Chromium."""
    with calling_relay(folder) as ready:
        figures = asyncio.run(_echoes(ready, rounds))
    return Result(_rows(figures), figures)


async def _echoes(ready: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every echo, by way and size."""
    times: dict[str, list[float]] = {f"{way}, {size}": [] for size in SIZES for way in WAYS}
    async with await Browser.launch() as browser:
        callee = await Caller.begin(browser, ready)
        callers = {way: await Caller.begin(browser, ready, direct=way == "webrtc") for way in WAYS}
        streams = {way: await caller.open(callee.peer) for way, caller in callers.items()}
        for way, caller in callers.items():
            await caller.reached_by(callee.peer, way)
        for turn in range(WARM_UP + rounds):
            for name, size in SIZES.items():
                for way, caller in callers.items():
                    found = await caller.echo(streams[way], size, TURN)
                    if turn >= WARM_UP:
                        times[f"{way}, {name}"] += found
    return times


def _rows(figures: dict[str, list[float]]) -> list[Row]:
    middle = {name: median(times) for name, times in figures.items()}
    return [
        Row(
            f"tab to tab and back, {size}",
            f"{middle[f'webrtc, {size}']:.1f} ms (WebRTC)",
            f"{middle[f'circuit, {size}']:.1f} ms (circuit)",
            middle[f"circuit, {size}"] / middle[f"webrtc, {size}"],
        )
        for size in SIZES
    ]

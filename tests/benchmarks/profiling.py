"""``make bench ARGS="steps --profile"``: what a tab's two workers do while steps go by that compute nothing.

V8's sampling profiler runs in both, by DevTools; the profiles are kept as .cpuprofile files, which Chromium's
performance panel and speedscope open. A sample counts for the part its function is of: a package of
node_modules, a file of ours, what the browser itself does for a call, Python. Rule of the file: client and
tab share the machine and the profiler takes its part: trust the shares, milliseconds are upper bounds.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from browser.peers import joined
from interop.running import ROOT, relay

from kwaainet.native.cli.tab import TabOptions, contributing_tab
from kwaainet.native.page import Page
from kwaainet.types import BlockRange

from .echo_model import ECHO, PREFIX, write_echo_model
from .model import HIDDEN_SIZE
from .report import Result, Row, spread
from .source_map import SourceMap

KEPT = ROOT / ".cache" / "benchmarks"
INTERVAL = 100  # microseconds between samples
STEPS_A_ROUND = 200
WARM_UP = 300  # until V8 has compiled what runs often
TOP = 6  # parts of each worker
WAITING = ("(idle)", "(program)")  # program: what is neither JavaScript's nor wasm's
BROWSER = {
    "send": "WebSocket.send of the browser",
    "postMessage": "postMessage of the browser",
    "(garbage collector)": "garbage collector",
}


def measure(folder: Path, rounds: int) -> Result:
    """Needs the headless Chromium. Leaves steps-network.cpuprofile and steps-node.cpuprofile."""
    model = write_echo_model(folder / "echo")
    with relay(folder, "--model", model, "--prefix", PREFIX) as ready:
        count = STEPS_A_ROUND * rounds
        times, profiles = asyncio.run(_profiled(ready, count))
    middle, late, _ = spread(times)
    rows = [
        Row("a step through a tab that computes nothing, profiled", f"{middle:.1f} ms", f"{late:.1f} ms p95")
    ]
    figures: dict[str, Any] = {"milliseconds": times}
    for worker, profile in profiles.items():
        path = KEPT / f"steps-{worker}.cpuprofile"
        path.write_text(json.dumps(profile))
        parts = self_times(profile, _map_of(worker))
        figures[worker] = {part: spent / count for part, spent in parts.items()}
        rows += _rows(worker, parts, count)
    return Result(rows, figures)


async def _profiled(ready: Mapping[str, Any], count: int) -> tuple[list[float], dict[str, Any]]:
    options = TabOptions(ready["http"], backend="wasm", headless=True, drain=0)
    async with contributing_tab(options, lambda event: None) as tab, joined(ready["tcp"]) as peer:
        online = await tab.until("online")
        span = BlockRange(0, ECHO.num_hidden_layers)
        session = await peer.session(online["peer_id"], WARM_UP + count, span, PREFIX)
        hidden = np.random.default_rng(0).standard_normal((1, 1, HIDDEN_SIZE), np.float32)
        for _ in range(WARM_UP):
            await session.step(hidden)
        workers = {_name(url): worker for worker, url in tab.page.workers.items()}
        await _start(tab.page, workers)
        times = []
        for _ in range(count):
            started = time.perf_counter()
            await session.step(hidden)
            times.append(1000 * (time.perf_counter() - started))
        return times, await _stop(tab.page, workers)


def _name(url: str) -> str:
    return url.rpartition("/")[2].partition(".")[0]


async def _start(page: Page, workers: Mapping[str, str]) -> None:
    for worker in workers.values():
        await page.worker_command(worker, "Profiler.enable")
        await page.worker_command(worker, "Profiler.setSamplingInterval", {"interval": INTERVAL})
        await page.worker_command(worker, "Profiler.start")


async def _stop(page: Page, workers: Mapping[str, str]) -> dict[str, Any]:
    stopped = {name: await page.worker_command(worker, "Profiler.stop") for name, worker in workers.items()}
    return {name: answer["profile"] for name, answer in stopped.items()}


def _map_of(worker: str) -> SourceMap:
    return SourceMap(ROOT / "web" / "dist" / "assets" / f"{worker}.js.map")


def self_times(profile: Mapping[str, Any], sources: SourceMap) -> Counter[str]:
    """Milliseconds by part, those of waiting left out."""
    parts = {node["id"]: _part(node["callFrame"], sources) for node in profile["nodes"]}
    spent: Counter[str] = Counter()
    for node, microseconds in zip(profile["samples"], profile["timeDeltas"], strict=True):
        if part := parts[node]:
            spent[part] += microseconds / 1000
    return spent


def _part(frame: Mapping[str, Any], sources: SourceMap) -> str:
    name, url = frame["functionName"], frame["url"]
    if name in WAITING or name == "(root)":
        return ""
    if not url:
        return BROWSER.get(name, "the browser's other calls")
    if ".wasm" in url or "pyodide" in url:
        return "Python"
    if url.startswith("wasm:"):
        return "Python" if "wasm-function" not in name else "Python and kernels"
    return sources.source(frame["lineNumber"], frame["columnNumber"]) or url.rpartition("/")[2]


def _rows(worker: str, parts: Counter[str], count: int) -> list[Row]:
    total = sum(parts.values())
    rows = [Row(f"{worker} worker: busy in a step", f"{total / count:.2f} ms")]
    rows += [
        Row(f"· {part}", f"{spent / count:.3f} ms", f"{spent / total:.0%} of it")
        for part, spent in parts.most_common(TOP)
    ]
    return rows

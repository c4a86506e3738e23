"""What a visitor waits for: bytes before Contribute is clicked, and the time from page to online.

A first visit has an empty profile, a return has the profile of the visit before, each in a browser
that was just started. The page says by its own events which stage it is in.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from interop.running import relay

from kwaainet.errors import LocalError
from kwaainet.native.chromium import Browser
from kwaainet.native.page import Page

from .model import GGUF, PREFIX
from .processes import family_cpu_seconds
from .report import Result, Row

QUIET = 1.5  # seconds without a byte after which the page has loaded everything
PATIENCE = 60.0  # seconds until a visit that does not come online, or offline, ends with all that is known
ANSWER_TIMEOUT = 5.0  # of a page or worker that is asked how it is
GOAL_BYTES = 100_000
GOAL_RETURN = 3.0  # seconds
STAGES = ("python", "weights", "build")
TOLD = "mark => [mark.name, performance.timeOrigin + mark.startTime]"
MARKS = (  # of the node worker
    "manifest read",
    "engine loaded",
    "loader loaded",
    "interpreter linked",
    "memory fetched",
    "memory restored",
    "packages loaded",
    "main called",
)


@dataclass
class Visit:
    """Seconds from the start of navigation to each thing that happened first."""

    started: float = field(default_factory=time.monotonic)
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    failure: str = ""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, event: dict[str, Any]) -> None:
        """One event of the page."""
        name = str(event["event"])
        if name == "progress":
            name = str(event["stage"])
        elif name == "connection":
            name = str(event["connection"])
        self.first.setdefault(name, time.monotonic() - self.started)
        self.last[name] = time.monotonic() - self.started
        if name == "error":
            self.failure = str(event.get("message"))
        if name in ("online", "error"):
            self.over.set()
        if name == "offline":
            self.left.set()

    def stages(self) -> dict[str, float]:
        """How long each stage took, and when the tab was online and had its slot on the relay."""
        marks = [self.first["starting"], *(self.last[name] for name in STAGES), self.first["online"]]
        spans = [end - start for start, end in itertools.pairwise(marks)]
        named = dict(zip((*STAGES, "announce"), spans, strict=True))
        return {"page": marks[0], **named, "online": marks[-1]} | {
            name: self.first[name] for name in ("clicked", "reserved")
        }


def measure_start(folder: Path, rounds: int) -> Result:
    """Needs the default model and the headless Chromium."""
    kinds = ("first visit", "return")
    figures: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with relay(folder, "--model", GGUF, "--prefix", PREFIX) as ready:
        for number in range(rounds):
            for kind in kinds:
                stages = asyncio.run(_to_online(ready["http"], folder / f"profile-{number}"))
                figures[kind].append(stages)
    rows = [_row(kind, figures[kind]) for kind in kinds]
    return Result(rows, figures)


def _row(kind: str, visits: Sequence[dict[str, float]]) -> Row:
    middle = {name: median(visit[name] for visit in visits) for name in visits[0]}
    _print_waterfall(kind, middle)
    split = ", ".join(f"{name} {middle[name]:.1f}" for name in ("page", *STAGES, "announce"))
    goal = f"≤ {GOAL_RETURN:g} s" if kind == "return" else ""
    what = f"click to online, {kind} (30 blocks, wasm)"
    theirs = f"with the page {middle['online']:.1f} s: {split}; {middle['cpu']:.1f} s of processor time"
    return Row(what, f"{middle['online'] - middle['clicked']:.1f} s", theirs, goal=goal)


def _print_waterfall(kind: str, middle: dict[str, float]) -> None:
    """What had happened when, in seconds from the navigation's start."""
    moments = {name: middle[name] for name in (*MARKS, "clicked", "reserved", "online") if name in middle}
    ends = itertools.accumulate((middle[name] for name in STAGES), initial=middle["page"])
    moments |= {f"{name} ended": end for name, end in zip(("page", *STAGES), ends, strict=True)}
    print(f"{kind}:")
    for name, moment in sorted(moments.items(), key=lambda one: one[1]):
        print(f"  {moment:6.2f} s {'-' * round(10 * moment)}| {name}")


async def _to_online(url: str, profile: Path) -> dict[str, float]:
    async with await Browser.launch(profile=profile) as browser:
        page = await browser.new_page()
        visit = Visit()
        idle = family_cpu_seconds(browser.process_id)
        await page.on_event("kwaainet", visit.note)
        visit.started = time.monotonic()
        await page.goto(f"{url}?backend=wasm")
        visit.note({"event": "clicked"})
        await page.evaluate("document.querySelector('#contribute').click()")
        await _until(visit.over, "online", page, visit)
        if visit.failure:
            raise OSError(f"the tab failed: {visit.failure}")
        cpu = family_cpu_seconds(browser.process_id) - idle
        marks = await _marks(page, MARKS)
        await page.evaluate("document.querySelector('#stop').click()")
        await _until(visit.left, "offline", page, visit)  # closed before, it could not say goodbye itself
        await page.close()
    return {**visit.stages(), "cpu": cpu, **marks}


async def _until(event: asyncio.Event, what: str, page: Page, visit: Visit) -> None:
    """``OSError`` with what page and workers say of themselves, if it does not come."""
    try:
        await asyncio.wait_for(event.wait(), PATIENCE)
    except TimeoutError:
        state = "document.querySelector('main').innerText.slice(0, 400)"
        asked = [(page.evaluate(state, ANSWER_TIMEOUT), "the page")]
        marks = f"performance.getEntriesByType('mark').map({TOLD})"
        asked += [(page.evaluate_in(one, marks, ANSWER_TIMEOUT), url) for one, url in page.workers.items()]
        answers = [f"{name}: {await _answer(question)}" for question, name in asked]
        heard = f"heard first {visit.first}, last {visit.last}"
        raise OSError("\n".join((f"not {what} within {PATIENCE:g} s", heard, *answers))) from None


async def _answer(question: Awaitable[Any]) -> Any:
    try:
        return await question
    except LocalError as error:
        return error


async def _marks(page: Page, wanted: Sequence[str]) -> dict[str, float]:
    """When the node worker was where, in seconds since the navigation."""
    start = float(await page.evaluate("performance.timeOrigin"))
    (worker,) = [name for name, url in page.workers.items() if "/node.js" in url]
    found = dict(await page.evaluate_in(worker, f"performance.getEntriesByType('mark').map({TOLD})"))
    return {name: (found[name] - start) / 1000 for name in wanted if name in found}


def measure_bytes(folder: Path, rounds: int) -> Result:
    """Once: the same bytes come every time."""
    with relay(folder, "--model", GGUF, "--prefix", PREFIX) as ready:
        figures = asyncio.run(_before_the_click(ready["http"]))
    size = figures["bytes"]
    row = Row(
        "bytes before Contribute is clicked",
        f"{size / 1000:.1f} kB in {len(figures['requests'])} requests",
        goal=f"< {GOAL_BYTES // 1000} kB",
    )
    return Result([row], figures)


async def _before_the_click(url: str) -> dict[str, Any]:
    async with await Browser.launch() as browser:
        page = await browser.new_page(watch_network=True)
        await page.goto(url)
        await _quiet(page)
        return {"bytes": page.bytes_received, "requests": page.requests}


async def _quiet(page: Page) -> None:
    """Returns when no byte came for ``QUIET`` seconds."""
    before = -1
    while page.bytes_received != before:
        before = page.bytes_received
        await asyncio.sleep(QUIET)

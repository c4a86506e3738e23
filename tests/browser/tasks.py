"""What a page's main thread did, task by task, by the processor's clock: a busy machine does not count.

Rule of the file: what is told is the browser's own trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from kwaainet.native.page import Page

CATEGORIES = ["toplevel", "__metadata"]
MAIN = "CrRendererMain"
TASK = "ThreadControllerImpl::RunTask"
ANOTHER = "new Promise(done => setTimeout(done))"
LONG = 50.0  # ms of the processor's, from which on a person feels a task
VISITS = 3
PATIENCE = 60.0  # seconds for the browser to hand a trace over


@asynccontextmanager
async def tasks(page: Page) -> AsyncIterator[list[float]]:
    """Processor milliseconds of every task of the page's main thread meanwhile; filled at the end."""
    events: list[dict[str, Any]] = []
    complete = asyncio.Event()

    def hear(method: str, params: dict[str, Any]) -> None:
        if method == "Tracing.dataCollected":
            events.extend(params["value"])
        elif method == "Tracing.tracingComplete":
            complete.set()

    found: list[float] = []
    with page.hearing(hear):
        await page.command("Tracing.start", {"traceConfig": {"includedCategories": CATEGORIES}})
        yield found
        await page.evaluate(ANOTHER)  # or the last one might not have ended
        await page.command("Tracing.end")
        await asyncio.wait_for(complete.wait(), PATIENCE)
    mains = {
        (one["pid"], one["tid"])
        for one in events
        if one["name"] == "thread_name" and one["args"]["name"] == MAIN
    }
    found += [
        one["tdur"] / 1000
        for one in events
        if one["name"] == TASK and "tdur" in one and (one["pid"], one["tid"]) in mains
    ]


async def not_long(visit: Callable[[], Awaitable[float]]) -> None:
    """``visit`` tells its longest task, in ms. A task of ours that is long is so each time; one that shared
    its core with other programs, which the processor's clock counts too, is so once.
    """
    seen: list[float] = []
    while not seen or seen[-1] >= LONG:
        assert len(seen) < VISITS, f"each visit had a long task: {seen} ms"
        seen.append(await visit())

"""What a page's main thread did, task by task, by the processor's clock: a busy machine does not count.

Rule of the file: what is told is the browser's own trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kwaainet.native.page import Page

CATEGORIES = ["toplevel", "__metadata"]
MAIN = "CrRendererMain"
TASK = "ThreadControllerImpl::RunTask"
ANOTHER = "new Promise(done => setTimeout(done))"
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

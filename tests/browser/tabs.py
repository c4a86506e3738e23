"""A tab in a real headless Chromium as the browser tests use it: clicked, read and listened to.

Rule of the file: a test waits for conditions, never for time; what does not come within ``PATIENCE``
fails with everything the tab has said.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from kwaainet.native.chromium import Browser
from kwaainet.native.page import Page

PATIENCE = 300.0  # seconds; a loaded machine is slow, a broken one gets stuck
SOON = 90.0  # seconds within which a caller must hear of an end; its own timeout would be 300
POLL = 0.05

Event = dict[str, Any]


class Failed(Exception):
    """A tab did not do what was awaited."""


class Tab:
    """A page of the contributor, open but not clicked; ``events`` is all it said, oldest first."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.events: list[Event] = []
        self._changed = asyncio.Event()

    def hear(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    async def click(self, button: str) -> None:
        """Press one of the page's buttons by its id."""
        await self.page.evaluate(f"document.getElementById({json.dumps(button)}).click()")

    async def text(self, element: str) -> str:
        """What a person reads in an element, empty when it is hidden."""
        found = f"document.getElementById({json.dumps(element)})"
        return str(await self.page.evaluate(f"{found}.checkVisibility() ? {found}.textContent : ''"))

    async def reads(self, element: str, text: str) -> None:
        """Await ``text`` in an element; what fills it may still be asking the browser."""

        async def told() -> bool:
            return text in await self.text(element)

        try:
            await eventually(told)
        except TimeoutError:
            raise AssertionError(f"#{element} reads {await self.text(element)!r}, not {text!r}") from None

    async def contribute(self) -> Event:
        """Click Contribute and wait until the tab serves."""
        since = len(self.events)
        await self.click("contribute")
        return await self.until("online", since=since)

    async def again(self, since: int) -> Event:
        """Wait until a tab that broke after ``events[since]`` serves again by itself."""
        async with asyncio.timeout(PATIENCE):
            while not any(event["event"] == "error" for event in self.events[since:]):
                await asyncio.sleep(POLL)
        broke = next(n for n, event in enumerate(self.events) if n >= since and event["event"] == "error")
        return await self.until("online", since=broke + 1)

    async def stop(self) -> None:
        """Click Stop and wait until the tab has left."""
        since = len(self.events)
        await self.click("stop")
        await self.until("offline", since=since)

    async def hide(self) -> None:
        """Minimize the tab's window; another tab in front hides none in a browser without windows."""
        await self._window("minimized")

    async def unhide(self) -> None:
        """Bring the tab's window back."""
        await self._window("normal")

    async def _window(self, state: str) -> None:
        window = (await self.page.command("Browser.getWindowForTarget"))["windowId"]
        bounds = {"windowId": window, "bounds": {"windowState": state}}
        await self.page.command("Browser.setWindowBounds", bounds)

    async def until(self, name: str, since: int = 0, **fields: Any) -> Event:
        """The first event from ``events[since]`` on that is ``name`` with these fields."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._until(name, since, fields)
        except TimeoutError:
            shown = await self.page.evaluate("document.body.innerText")
            raise Failed(
                f"awaited {name} {fields} in vain after {self.events}; the page reads {shown}"
            ) from None

    async def _until(self, name: str, since: int, fields: Mapping[str, Any]) -> Event:
        while True:
            for event in self.events[since:]:
                if event["event"] == name and fields.items() <= event.items():
                    return event
                if event["event"] == "error":
                    raise Failed(f"awaited {name} {fields}, but: {event.get('message')}")
            if self.page.ended.done():
                raise Failed(f"awaited {name} {fields}, but the tab ended after {self.events}")
            self._changed.clear()
            changed = asyncio.ensure_future(self._changed.wait())
            await asyncio.wait({changed, self.page.ended}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()


async def open_tab(browser: Browser, url: str, *, first: str = "", **query: str) -> Tab:
    """The contributor's page at ``url`` in a new tab; ``query`` is what its address asks for.

    ``first`` runs ahead of the page's own scripts. Unless asked for, it does not drain: a test that stops
    a tab has nobody left to serve.
    """
    tab = Tab(await browser.new_page(watch_network=True))
    if first:
        await tab.page.run_first(first)
    await tab.page.on_event("kwaainet", tab.hear)
    await tab.page.goto(f"{url}?{urlencode({'drain': '0', **query})}")
    return tab


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until ``condition`` holds; ``TimeoutError`` if it does not."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(POLL)

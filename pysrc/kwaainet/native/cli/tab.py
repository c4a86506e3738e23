"""``kwaainet tab``: open a contributing tab in a real Chromium and report what becomes of it."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from ...errors import ConfigError, KwaaiNetError, LocalError
from ...types import BlockRange, Progress
from ..chromium import Browser, Page
from .flags import DRAIN, add_blocks, add_command, add_drain, add_weights
from .signals import leave_in_order, until_signalled
from .terminal import STAGES, ProgressLine, emit, say

log = logging.getLogger(__name__)

STOP_TIMEOUT = 20.0  # seconds a tab may take to leave in good order, beside its draining
# A page's events that are states; the others tell of something beside them, at any time.
STATES = frozenset((
    "starting", "reserving", "loading", "joining",
    "online", "paused", "elsewhere", "draining", "offline", "error",
))  # fmt: skip
Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TabOptions:
    """What the page is told. ``None`` leaves the choice to the tab;
    ``drain`` is the seconds that leaving may take."""

    url: str
    blocks: BlockRange | str | None = None  # auto:N lets the tab choose where so many are
    backend: str | None = None
    weights: str | None = None
    headless: bool = False
    browser: Path | None = None
    profile: Path | None = None
    drain: float = DRAIN

    def page_url(self) -> str:
        """The page's address, the choices added to its query; ``ConfigError`` if it is no http address."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(
                f"{self.url!r} is not the address of a page; give the http address a relay printed"
            )
        drain = None if self.drain == DRAIN else f"{self.drain:g}"  # the page's own default
        query = {"blocks": self.blocks, "backend": self.backend, "weights": self.weights, "drain": drain}
        text = urlencode({name: str(value) for name, value in query.items() if value is not None})
        return parts._replace(query="&".join(filter(None, (parts.query, text)))).geturl()


class Tab:
    """A page that contributes: its events, oldest first, and its end."""

    def __init__(self, page: Page, listener: Callable[[Event], None], drain: float = DRAIN) -> None:
        self._page = page
        self._drain = drain
        self._listener = listener
        self._changed = asyncio.Event()
        self._button = "finish"
        self.last: Event = {"event": "opened"}

    @property
    def page(self) -> Page:
        """The page in the browser."""
        return self._page

    def on_event(self, event: Event) -> None:
        """One event of the page; ``last`` keeps those that are states."""
        self._listener(event)
        if event["event"] in STATES:
            self.last = event
            self._changed.set()

    async def contribute(self) -> None:
        """Click Contribute, as a person would."""
        await self._page.evaluate("document.querySelector('#contribute').click()")

    async def until(self, *states: str) -> Event:
        """The next event that is one of ``states``; ``LocalError`` if the tab fails or goes first."""
        while self.last["event"] not in states:
            if self.last["event"] == "error":
                raise LocalError(f"the tab failed: {self.last.get('message', 'no reason given')}")
            self._changed.clear()
            changed = asyncio.ensure_future(self._changed.wait())
            waiting: list[asyncio.Future[Any]] = [changed, self._page.ended]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if self._page.ended.done() and not self._changed.is_set():
                raise LocalError(f"the browser went away while the tab was {self.last['event']}")
        return self.last

    async def stop(self) -> None:
        """Click Finish and wait until the tab is out of the swarm; asked again meanwhile, click Stop."""
        if self.last["event"] in ("offline", "error", "opened"):
            return
        button, self._button = self._button, "stop"
        await self._page.evaluate(f"document.querySelector('#{button}').click()")
        async with asyncio.timeout(self._drain + STOP_TIMEOUT):
            await self.until("offline")


@asynccontextmanager
async def contributing_tab(options: TabOptions, listener: Callable[[Event], None]) -> AsyncIterator[Tab]:
    """A tab of its own browser in which Contribute has been clicked; stopped and closed at the end."""
    url = options.page_url()
    browser = await Browser.launch(options.browser, headless=options.headless, profile=options.profile)
    async with browser:
        page = await browser.new_page()
        tab = Tab(page, listener, options.drain)
        await page.on_event("kwaainet", tab.on_event)
        await page.goto(url)
        await tab.contribute()
        try:
            yield tab
        finally:
            try:
                await tab.stop()
            except (KwaaiNetError, TimeoutError) as error:
                log.warning("the tab did not leave in good order: %s", error)
            await page.close()


class Narrator:
    """Tells a tab's events: every change of state once, progress to ``report``."""

    def __init__(self, progress: ProgressLine, tell: Callable[[Event], None], name: str = "") -> None:
        self._progress, self._tell, self._name = progress, tell, name
        self._state = ""

    def __call__(self, event: Event) -> None:
        match state := str(event["event"]):
            case "connection":
                log.info("%sthe relay is %s", self._name, event.get("connection"))
            case "progress":
                stage = str(event["stage"])
                stage = self._name + STAGES.get(stage, stage)
                self._progress(Progress(stage, int(event["done"]), int(event["total"]), int(event["cached"])))
            case _ if state not in STATES:
                log.debug("%s%s", self._name, event)
            case _ if state != self._state:
                self._progress.finish()
                self._state = state
                self._tell(event)


def add_tab_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that ``tab`` and ``up`` share."""
    parser.add_argument(
        "--backend", choices=("wasm", "webgpu"), help="what computes; the tab chooses if not given"
    )
    add_weights(parser)
    parser.add_argument("--headless", action="store_true", help="without a window")
    parser.add_argument("--browser", type=Path, metavar="FILE", help="the Chrome or Chromium to start")


def add(commands: Any) -> None:
    """Declare ``kwaainet tab``."""
    parser = add_command(commands, "tab", "a contributing tab in a real Chromium", __doc__)
    parser.add_argument("url", metavar="URL", help="the page's address, as the relay printed it")
    add_blocks(parser)
    add_tab_flags(parser)
    add_drain(parser)
    parser.add_argument(
        "--profile", type=Path, metavar="DIR", help="keep identity and weights here between runs"
    )
    parser.set_defaults(run=run)


async def run(options: argparse.Namespace) -> int:
    """Contribute until SIGINT or SIGTERM, or until the tab or its browser ends."""
    tab_options = TabOptions(
        options.url,
        options.blocks,
        options.backend,
        options.weights,
        options.headless,
        options.browser,
        options.profile,
        options.drain,
    )
    async with contributing_tab(tab_options, Narrator(ProgressLine(), emit)) as tab:
        ended = asyncio.ensure_future(tab.until("offline"))
        signalled = asyncio.ensure_future(until_signalled())
        await asyncio.wait({ended, signalled}, return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        if ended.done():
            ended.result()
        else:
            ended.cancel()
            say(f"finishing what is being served, at most {options.drain:g} s")
            await leave_in_order(tab.stop(), tab.stop)
    return 0

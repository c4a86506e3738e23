"""The contributor's page in each of its states, for tests and for screenshots.

Rule of the file: a state is reached as a person reaches it, by clicks; what a machine would report (its
battery) is put in its place before the page runs. ``PYTHONPATH=tests python -m browser.page_states``
writes screenshots (``make screenshots``).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from browser.peers import PREFIX
from browser.tabs import Tab, open_tab
from browser.talking import ChatPage, write_talking_model
from interop.running import relay

from kwaainet.native.chromium import Browser

PHONE, DESK = 360, 1100  # pixels
BATTERY = """
const battery = Object.assign(new EventTarget(), { charging: true, level: 1 })
navigator.getBattery = async () => battery
globalThis.unplug = () => { battery.charging = false; battery.dispatchEvent(new Event('chargingchange')) }
globalThis.plug = () => { battery.charging = true; battery.dispatchEvent(new Event('chargingchange')) }
"""


class Visit:
    """A tab of the page, and what a person does with it."""

    def __init__(self, browser: Browser, tab: Tab, url: str) -> None:
        self.browser, self.tab, self.url = browser, tab, url

    async def before(self) -> None:
        """Open, and looked at."""
        await self.tab.reads("preflight-summary", "This browser can contribute")

    async def unfolded(self) -> None:
        """The checks are shown."""
        await self.tab.page.evaluate("document.getElementById('preflight').open = true")

    async def serving(self) -> None:
        """Clicked, online, and asked something by the chat."""
        await self.tab.contribute()
        chat = await ChatPage.of(self.tab)
        await chat.ask("What is it?")
        await self.tab.reads("tiles", "tokens in all")
        await self.tab.reads("coverage", "every block is served")

    async def on_battery(self) -> None:
        """Paused by a limit."""
        await self.tab.page.evaluate("unplug()")
        await self.tab.reads("state", "Paused: this machine runs on its battery.")

    async def paused(self) -> None:
        """Paused by its owner."""
        await self.tab.page.evaluate("plug()")
        await self.tab.reads("state", "Online")
        await self.tab.click("pause")
        await self.tab.reads("state", "Paused: you asked for it.")

    async def elsewhere(self) -> None:
        """Another tab of this browser has the turn."""
        first, self.tab = self.tab, await open_page(self.browser, self.url)
        await self.tab.click("contribute")
        await self.tab.reads("state", "Another tab of this browser contributes")
        await self.tab.page.close()
        self.tab = first

    async def stopped(self) -> None:
        """Stopped; there is a history now."""
        await self.tab.click("stop")
        await self.tab.reads("state", "Not contributing.")
        await self.tab.reads("history-note", "Added up by day")

    async def failed(self) -> None:
        """The relay refuses to say what it offers."""
        await self.tab.page.evaluate("globalThis.fetch = async () => { throw new TypeError('no network') }")
        await self.tab.click("contribute")
        await self.tab.reads("problem", "does not answer")


STATES: tuple[Callable[[Visit], Awaitable[None]], ...] = (
    Visit.before, Visit.unfolded, Visit.serving, Visit.on_battery, Visit.paused, Visit.elsewhere,
    Visit.stopped, Visit.failed,
)  # fmt: skip


async def open_page(browser: Browser, url: str, **query: str) -> Tab:
    """The page in a tab of a machine with a battery, on wasm."""
    return await open_tab(browser, url, first=BATTERY, backend="wasm", **query)


@asynccontextmanager
async def visit(url: str) -> AsyncIterator[Visit]:
    """A browser with the page open."""
    async with await Browser.launch() as browser:
        yield Visit(browser, await open_page(browser, url), url)


async def show(tab: Tab, width: int, scheme: str) -> None:
    """Give the tab a width in pixels and a colour scheme."""
    height = 900
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width == PHONE}
    await tab.page.command("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    await tab.page.command("Emulation.setEmulatedMedia", {"features": features})


async def photograph(url: str, folder: Path) -> None:
    """Every state, wide and light, and as on a phone in the dark."""
    async with visit(url) as seen:
        for state in STATES:
            tab = seen.tab
            await state(seen)
            if state is Visit.elsewhere:
                continue
            for width, scheme in ((DESK, "light"), (PHONE, "dark")):
                await show(tab, width, scheme)
                name = f"{state.__name__}-{width}-{scheme}.png"
                (folder / name).write_bytes(await tab.page.screenshot(whole=True))
                print(folder / name)


def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="browser.page_states", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".cache/screenshots"))
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kwaainet-page-") as name:
        model = write_talking_model(Path(name) / "model")
        with relay(Path(name), "--model", model, "--prefix", PREFIX) as ready:
            asyncio.run(photograph(ready["http"], folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())

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
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from browser.peers import PREFIX, Peer, joined
from browser.tabs import Tab, open_tab
from browser.talking import ChatPage, write_talking_model
from interop.running import relay

from kwaainet.native.chromium import Browser
from kwaainet.swarm.announcement import Announcement
from kwaainet.swarm.server_info import ModelInfo, ServerInfo
from kwaainet.testing.host import MemoryNetwork
from kwaainet.types import ServerState

OTHER = "second-llama"  # a model that the relay offers beside PREFIX
BIG, BIG_BLOCKS = "elsewhere-llama", 30  # one that others serve, of which the relay only reads
SPANS = ((0, 12), (8, 20), (0, 6), (24, 30), (14, 20), (24, 28))  # of its servers: four blocks have none
PHONE, DESK = 360, 1100  # pixels
BATTERY = """
const battery = Object.assign(new EventTarget(), { charging: true, level: 1 })
navigator.getBattery = async () => battery
globalThis.unplug = () => { battery.charging = false; battery.dispatchEvent(new Event('chargingchange')) }
globalThis.plug = () => { battery.charging = true; battery.dispatchEvent(new Event('chargingchange')) }
"""
BREAKABLE = """
const Made = Worker
globalThis.made = []
globalThis.Worker = class extends Made {
  constructor (...words) { super(...words); made.push([String(words[0]), this]) }
}
"""
CRASH = """
made.findLast(([url]) => url.includes('/%s.js'))[1]
  .dispatchEvent(new ErrorEvent('error', { message: 'it crashed' }))
"""


async def populate(peer: Peer) -> None:
    """Put a model of others' into the DHT, by a peer that this relay does not announce for."""
    network, now = MemoryNetwork(1), time.time()
    for start, end in SPANS:
        state = ServerState.JOINING if (start, end) == SPANS[-1] else ServerState.ONLINE
        info = ServerInfo(state, 5.0, start_block=start, end_block=end, version="2.3.0.dev2")
        announcement = Announcement(BIG, info, 900.0, ModelInfo(BIG_BLOCKS))
        await peer.dht.store_many(announcement.records(network.host().peer_id, now + 900.0))


class Visit:
    """A tab of the page, and what a person does with it."""

    def __init__(self, browser: Browser, tab: Tab, url: str) -> None:
        self.browser, self.tab, self.url = browser, tab, url
        self.first: Tab | None = None  # while another tab is looked at

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
        await self.tab.reads("receipts", " tokens in ")
        await self.tab.reads("coverage", "blocks are served")
        await self.tab.reads("coverage", "Your last message went to this tab for blocks 0 to 2.")

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
        self.first, self.tab = self.tab, await open_page(self.browser, self.url)
        await self.tab.click("contribute")
        await self.tab.reads("state", "Another tab of this browser contributes")
        assert await self.tab.text("switch") == "", "it waits for the model that is chosen"

    async def broken(self) -> None:
        """A worker crashed; the node starts anew by itself."""
        assert self.first is not None
        await self.tab.page.close()
        self.tab, self.first = self.first, None
        await self.tab.click("pause")
        await self.tab.reads("state", "Online")
        await self.tab.page.evaluate(CRASH % "node")
        await self.tab.reads("notices", "It starts anew in 2 s")
        await self.tab.reads("state", "Online")

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
    Visit.broken, Visit.stopped, Visit.failed,
)  # fmt: skip


@contextmanager
def two_models(folder: Path) -> Iterator[dict[str, Any]]:
    """A relay that offers two models that can be talked to; its ready event."""
    flags: list[str | Path] = []
    for seed, prefix in enumerate((PREFIX, OTHER)):
        flags += ["--model", write_talking_model(folder / prefix, seed), "--prefix", prefix]
    with relay(folder, *flags) as ready:
        yield ready


async def open_page(browser: Browser, url: str, **query: str) -> Tab:
    """The page in a tab of a machine with a battery, on wasm."""
    return await open_tab(browser, url, first=BATTERY + BREAKABLE, backend="wasm", **query)


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
            await state(seen)
            for width, scheme in ((DESK, "light"), (PHONE, "dark")):
                await show(seen.tab, width, scheme)
                name = f"{state.__name__}-{width}-{scheme}.png"
                (folder / name).write_bytes(await seen.tab.page.screenshot(whole=True))
                print(folder / name)


def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="browser.page_states", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".cache/screenshots"))
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kwaainet-page-") as name, two_models(Path(name)) as ready:
        asyncio.run(_main(ready, folder))
    return 0


async def _main(ready: dict[str, Any], folder: Path) -> None:
    async with joined(ready["tcp"]) as peer:
        await populate(peer)
        await photograph(ready["http"], folder)


if __name__ == "__main__":
    sys.exit(main())

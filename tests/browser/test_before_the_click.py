"""Opening the page is nearly free: some kilobytes, nothing stored, nothing running."""

from __future__ import annotations

import asyncio
from typing import Any

from browser.painting import first_paint
from browser.tabs import open_tab

from kwaainet.native.chromium import Browser

MOST_BYTES = 100_000
MOST_BYTES_BEFORE_PAINT = (
    10_000  # of the words and their style: a fifth of a second on 4G beside two round trips
)

STORED = """
(async () => {
  const names = []
  for await (const name of (await navigator.storage.getDirectory()).keys()) names.push(name)
  return {
    databases: await indexedDB.databases(),
    files: names,
    local: localStorage.length,
    session: sessionStorage.length,
    caches: await caches.keys(),
    cookies: document.cookie,
    workers: (await navigator.serviceWorker.getRegistrations()).length,
    locks: (await navigator.locks.query()).held.length
  }
})()
"""
NOTHING = {
    "databases": [],
    "files": [],
    "local": 0,
    "session": 0,
    "caches": [],
    "cookies": "",
    "workers": 0,
    "locks": 0,
}


def test_the_page_costs_little_and_stores_nothing(origin: dict[str, Any]) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            tab = await open_tab(browser, origin["http"])
            page = tab.page
            assert await tab.text("state") == "Not contributing."
            await tab.click("preflight-summary")
            await tab.reads("checks", "WebGPU")  # what this browser can do must be said
            assert 0 < page.bytes_received < MOST_BYTES
            own = (origin["http"], "data:", "ws://127.0.0.1:")  # is the relay reachable?
            assert all(url.startswith(own) for url in page.requests), page.requests
            assert page.workers == {}
            assert await page.evaluate(STORED) == NOTHING
            assert tab.events == []
            assert not await page.evaluate("document.querySelector('#contribute').disabled")

    asyncio.run(main())


def test_the_words_are_painted_after_two_requests_and_without_any_script(origin: dict[str, Any]) -> None:
    """What decides the time of the first paint on a phone; the time itself: make bench ARGS=paint."""

    async def main() -> None:
        async with await Browser.launch() as browser:
            page = await browser.new_page(watch_network=True)
            await page.command("Network.setBlockedURLs", {"urls": ["*.js*"]})
            await page.goto(origin["http"])
            found = await first_paint(page)
            assert found["needed"] == ["/assets/page.css"]
            assert 0 < found["bytes"] < MOST_BYTES_BEFORE_PAINT
            text = await page.evaluate("document.body.innerText")
            for words in (
                "Lend this tab to a language model",
                "Contribute",
                "Limits",
                "could work the words out",
            ):
                assert words in text
            assert await page.evaluate("document.querySelector('#contribute').disabled"), (
                "nobody would hear a click"
            )

    asyncio.run(main())

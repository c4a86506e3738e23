"""Opening the page is nearly free: some kilobytes, nothing stored, nothing running."""

from __future__ import annotations

import asyncio
from typing import Any

from browser.tabs import open_tab

from kwaainet.native.chromium import Browser

MOST_BYTES = 100_000

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
            assert all(url.startswith((origin["http"], "data:")) for url in page.requests), page.requests
            assert page.workers == {}
            assert await page.evaluate(STORED) == NOTHING
            assert tab.events == []

    asyncio.run(main())

"""What a tab keeps between visits: told to people, deleted under a running node, and fetched again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from browser.tabs import Tab, eventually, open_tab

from kwaainet.native.chromium import Browser

# While nobody writes the index: a file that is being written cannot be deleted.
CLEAR = """
navigator.locks.request('kwaainet-kept', async () => {
  const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle('blobs')
  const names = []
  for await (const name of folder.keys()) names.push(name)
  for (const name of names) await folder.removeEntry(name)
  return names.length
})
"""


async def storage(tab: Tab) -> dict[str, Any]:
    """What the tab last said of storage, once it did."""

    async def said() -> bool:
        return any(event["event"] == "storage" for event in tab.events)

    await eventually(said)
    told: list[dict[str, Any]] = [event for event in tab.events if event["event"] == "storage"]
    return told[-1]


def test_a_node_survives_cleared_storage_and_fetches_again(origin: dict[str, Any], tmp_path: Path) -> None:
    async def main() -> None:
        async with await Browser.launch(profile=tmp_path / "profile") as browser:
            tab = await open_tab(browser, origin["http"], backend="wasm")
            await tab.contribute()
            told = await storage(tab)
            assert (told["kept"], told["message"]) == (True, "")
            assert 0 < told["needed"] < told["room"]
            assert await tab.page.evaluate(CLEAR) > 10
            await tab.stop()
            assert [event["event"] for event in tab.events if event["event"] == "error"] == []

            await tab.page.reload()
            tab.page.requests.clear()
            tab.events.clear()
            await tab.contribute()
            assert any("/model/" in url and not url.endswith(".json") for url in tab.page.requests)
            assert (await storage(tab))["kept"]
            await tab.stop()

    asyncio.run(main())

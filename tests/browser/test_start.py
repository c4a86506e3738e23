"""How a tab's Python starts: from the memory written down at set-up, and without it aloud, from its files."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from browser.peers import PREFIX
from browser.tabs import open_tab
from interop.running import ROOT, relay

from kwaainet.native.chromium import Browser

ALOUD = "its memory was not restored"
MARKS = "performance.getEntriesByType('mark').map(mark => mark.name)"


async def started(url: str) -> list[str]:
    """Serve, and return what the node worker passed on its way."""
    async with await Browser.launch() as browser:
        tab = await open_tab(browser, url, backend="wasm", blocks="0:2")
        await tab.contribute()
        (worker,) = [name for name, script in tab.page.workers.items() if "/node.js" in script]
        asked = {"expression": MARKS, "returnByValue": True}
        marks = await tab.page.worker_command(worker, "Runtime.evaluate", asked)
        await tab.stop()
        return list(marks["result"]["value"])


def test_a_tab_imports_nothing(origin: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    marks = asyncio.run(started(origin["http"]))
    assert "memory restored" in marks
    assert "packages loaded" not in marks
    assert ALOUD not in caplog.text


def test_a_tab_without_its_memory_says_so_and_starts_from_files(
    tmp_path: Path, small_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site, folder = tmp_path / "web", tmp_path / "relay"
    folder.mkdir()
    shutil.copytree(ROOT / "web" / "dist", site, ignore=shutil.ignore_patterns("ort", "snapshot.bin*"))
    caplog.set_level(logging.WARNING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KWAAINET_ASSETS", str(site))
        with relay(folder, "--model", small_model, "--prefix", PREFIX) as ready:
            marks = asyncio.run(started(ready["http"]))
    assert "packages loaded" in marks
    assert "memory restored" not in marks
    assert ALOUD in caplog.text

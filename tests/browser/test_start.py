"""How a tab's Python starts: from the memory written down at set-up, and without it aloud, from its files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.peers import PREFIX
from browser.tabs import Failed, open_tab
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


@contextlib.contextmanager
def relay_without(file: str, folder: Path, model: Path) -> Iterator[str]:
    """The address of a relay whose site lacks one of Python's files."""
    site = folder / "web"
    shutil.copytree(ROOT / "web" / "dist", site, ignore=shutil.ignore_patterns("ort", f"{file}*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KWAAINET_ASSETS", str(site))
        with relay(folder, "--model", model, "--prefix", PREFIX) as ready:
            yield ready["http"]


def test_a_tab_without_its_memory_says_so_and_starts_from_files(
    tmp_path: Path, small_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with relay_without("snapshot.bin", tmp_path, small_model) as url:
        marks = asyncio.run(started(url))
    assert "packages loaded" in marks
    assert "memory restored" not in marks
    assert ALOUD in caplog.text


def test_a_tab_whose_interpreter_does_not_come_says_so(tmp_path: Path, small_model: Path) -> None:
    """Pyodide logs that, and waits for ever."""
    missing = "pyodide.asm.wasm"
    with (
        relay_without(missing, tmp_path, small_model) as url,
        pytest.raises(Failed, match=re.escape(missing)),
    ):
        asyncio.run(started(url))

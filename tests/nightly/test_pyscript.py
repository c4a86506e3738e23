"""PyScript in somebody's page: what ``tests/browser/test_notebook.py`` shows with Pyodide alone.

PyScript comes from npm's registry when this runs, checked by hash; everything else is served from here.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from browser.hosting import Host
from browser.tabs import eventually, open_tab
from browser.talking import PREFIX, generated
from browser.test_notebook import site
from interop.running import ROOT

from kwaainet.native.chromium import Browser

__all__ = ["site"]

PYSCRIPT = "@pyscript/core@0.7.31"
SHA256 = "b2ca1a0c0956aebd990a7c8524cca1eb061444a8319a7264d2f31ef30bea276a"
ANYTHING = "default-src * 'unsafe-inline' 'unsafe-eval' blob: data:"  # PyScript's own needs are its own
PAGE = """<!doctype html>
<title>PyScript</title>
<script type="module" src="./pyscript/core.js"></script>
<script type="py" {where} config='{{"interpreter": "/pyodide/pyodide.mjs", "packages": ["micropip"]}}'>
import json
import js
import micropip
from pyodide.http import pyfetch

micropip.set_index_urls(["{relay}simple"])
await micropip.install("kwaainet")

from kwaainet.browser import AsyncClient

answer = ""
async with AsyncClient("{relay}") as client:
    async for piece in client.generate("Hi", max_tokens=16, temperature=0):
        answer += piece
await pyfetch(f"{{js.location.origin}}/report", method="POST", body=json.dumps({{"answer": answer}}))
</script>
"""


def add_pyscript(folder: Path) -> None:
    """Its files into ``folder``/pyscript."""
    npm = ROOT / ".venv" / "bin" / "npm"
    command = [npm, "pack", PYSCRIPT, "--silent", "--pack-destination", folder]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    (archive,) = folder.glob("*.tgz")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256
    with tarfile.open(archive) as files:
        files.extractall(folder / "unpacked", filter="data")
    shutil.move(folder / "unpacked" / "package" / "dist", folder / "pyscript")


@pytest.mark.parametrize("where", ["", "worker"])
def test_it_installs_the_client_and_talks(
    talking_origin: dict[str, Any], talking_model: Path, site: Path, where: str
) -> None:
    if not (site / "pyscript").is_dir():
        add_pyscript(site)
    relay = talking_origin["http"]

    async def main() -> None:
        host = Host(ANYTHING, {"": PAGE.format(where=where, relay=relay)}, folder=site)
        async with host.open(), await Browser.launch() as browser:
            server = await open_tab(browser, relay, backend="wasm")
            await server.contribute()
            expected = await generated(talking_model, PREFIX, talking_origin["tcp"], "Hi", 16)
            page = await browser.new_page()
            await page.goto(f"{host.url}/")

            async def answered() -> bool:
                return bool(host.reports)

            await eventually(answered)
            assert host.reports == [{"answer": expected}]

    asyncio.run(main())

"""Firefox from Debian: the SDK's element in a strict page of another origin serves a generation, too.

``apt-get download`` brings the package, and what of its needs this system lacks, into ``.cache/firefox``;
nothing is installed. It is driven over WebDriver BiDi. Rule of the file: a test waits for conditions, never
for time.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from browser.hosting import BUTTON, Host, strict
from browser.tabs import eventually
from browser.talking import generated, write_talking_model
from browser.test_embedding import PANEL, element_page
from interop.running import ROOT, relay

FOLDER = ROOT / ".cache" / "firefox"
PACKAGE = "firefox-esr"
LIBRARIES = FOLDER / "usr" / "lib"
FIREFOX = LIBRARIES / "firefox-esr" / "firefox-esr"
PREFIX = "talking-llama"
STATE = f"{PANEL}.state"


def unpack() -> None:
    """Firefox into ``FOLDER``, once."""
    if FIREFOX.is_file():
        return
    part = FOLDER.with_name("firefox.part")
    for folder in (part, FOLDER):
        shutil.rmtree(folder, ignore_errors=True)
    part.mkdir(parents=True)
    simulated = apt_get("--simulate", "--no-install-recommends", "install", PACKAGE)
    lacking = re.findall(r"^Inst (\S+)", simulated, re.MULTILINE)
    apt_get("download", *{PACKAGE, *lacking}, folder=part)
    for package in part.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, part], check=True)
    part.rename(FOLDER)


def apt_get(*words: str, folder: Path | None = None) -> str:
    ran = subprocess.run(["apt-get", *words], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, f"apt-get {' '.join(words)}: {ran.stderr}"
    return ran.stdout


class Tab:
    """Firefox's one tab, by WebDriver BiDi."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._calls = 0
        self._context = ""

    async def begin(self) -> None:
        await self.call("session.new", capabilities={})
        self._context = (await self.call("browsingContext.getTree"))["contexts"][0]["context"]

    async def call(self, method: str, **params: Any) -> Any:
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": params})
        while (answer := await self._socket.receive_json()).get("id") != self._calls:
            pass
        assert answer["type"] == "success", answer
        return answer["result"]

    async def goto(self, url: str) -> None:
        await self.call("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def evaluate(self, expression: str) -> Any:
        target = {"context": self._context}
        answer = await self.call("script.evaluate", expression=expression, target=target, awaitPromise=True)
        return answer.get("result", {}).get("value")

    async def shows(self, expression: str, wanted: str) -> None:
        async def told() -> bool:
            return wanted in str(await self.evaluate(expression))

        await eventually(told)


@asynccontextmanager
async def firefox(scratch: Path) -> AsyncIterator[Tab]:
    """A headless Firefox with a profile of its own."""
    libraries = f"{LIBRARIES / 'firefox-esr'}:{LIBRARIES / 'x86_64-linux-gnu'}"
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries, "HOME": str(scratch)}
    flags = ["--headless", "--no-remote", "--profile", scratch, "--remote-debugging-port", "0", "about:blank"]
    process = await asyncio.create_subprocess_exec(
        FIREFOX, *flags, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            address = await listening(process.stderr)
        draining = asyncio.ensure_future(process.stderr.read())
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(f"{address}/session") as socket,
        ):
            tab = Tab(socket)
            await tab.begin()
            yield tab
        draining.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def listening(said: asyncio.StreamReader) -> str:
    """The address Firefox says it listens at; fails with all it said if it ends before."""
    lines = []
    async for line in said:
        if found := re.search(rb"BiDi listening on (ws://\S+)", line):
            return found[1].decode()
        lines.append(line.decode())
    raise AssertionError(f"Firefox ended: {''.join(lines)}")


def test_an_element_serves_a_generation_in_firefox(tmp_path: Path) -> None:
    unpack()
    model = write_talking_model(tmp_path / "talking")
    (tmp_path / "profile").mkdir()

    async def main(origin: dict[str, Any]) -> None:
        host = Host(strict(origin), {"": element_page(origin)})
        async with host.open(), firefox(tmp_path / "profile") as tab:
            await tab.goto(f"{host.url}/")
            await tab.shows(f"{BUTTON.format('start')}?.textContent", "Agree")
            await tab.evaluate(f"{BUTTON.format('start')}.click()")
            await tab.shows(STATE, "serving")
            assert len(await generated(model, PREFIX, origin["tcp"], "Hi", 16)) > 0
            await tab.evaluate("document.querySelector('kwaai-node').stop()")
            await tab.shows(STATE, "stopped")
            breaches = [report["csp-report"]["blocked-uri"] for report in host.reports]
            assert [uri for uri in breaches if not uri.endswith("/favicon.ico")] == []

    with relay(tmp_path, "--model", model, "--prefix", PREFIX) as origin:
        asyncio.run(main(origin))

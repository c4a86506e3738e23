"""The SDK in somebody else's site: another origin, a strict policy, its main thread left alone.

The host's policy reports every breach to the host itself, those of workers and frames included.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from browser.tabs import eventually
from browser.talking import write_talking_model
from interop.running import relay, run_sdk_build

from kwaainet.native.chromium import Browser
from kwaainet.native.page import Page

PREFIX = "talking-llama"
NONCE = "q83vAbcd"


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    model = write_talking_model(tmp_path_factory.mktemp("model") / "talking")
    with relay(tmp_path_factory.mktemp("relay"), "--model", model, "--prefix", PREFIX) as ready:
        yield ready


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_sdk_build(tmp_path_factory.mktemp("sdk")) / "examples"


class Host:
    """A site of another origin; ``reports`` are the breaches of its policy."""

    def __init__(self, pages: dict[str, str], policy: str, folder: Path) -> None:
        self._pages, self._policy, self._folder = pages, f"{policy}; report-uri /report", folder
        self.reports: list[dict[str, Any]] = []
        self.url = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Host]:
        app = web.Application()
        app.router.add_post("/report", self._report)
        app.router.add_get("/{path:.*}", self._serve)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://localhost:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _report(self, request: web.Request) -> web.Response:
        self.reports.append(json.loads(await request.text()))
        return web.Response()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        headers = {"Content-Security-Policy": self._policy}
        if path in self._pages:
            return web.Response(text=self._pages[path], content_type="text/html", headers=headers)
        file = self._folder / path
        if not file.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(file, headers=headers)


def strict(origin: dict[str, Any]) -> str:
    """The policy that README of kwaainet-web asks for, and nothing beside it."""
    own, socket = origin["http"].rstrip("/"), "ws://127.0.0.1:*"
    return (
        f"default-src 'none'; script-src 'nonce-{NONCE}' 'self' {own} 'wasm-unsafe-eval'; "
        f"worker-src blob: {own}; connect-src {own} {socket}; frame-src {own}; base-uri 'none'"
    )


def element_page(origin: dict[str, Any]) -> str:
    return (
        "<!doctype html><title>host</title>"
        f'<script type="module" nonce="{NONCE}" src="{origin["http"]}sdk/define.js"></script>'
        f'<kwaai-node relay="{origin["http"]}"></kwaai-node>'
        f'<script nonce="{NONCE}">const panel = document.querySelector("kwaai-node");'
        'customElements.whenDefined("kwaai-node").then(() => { panel.options = { backend: "wasm" } });'
        'addEventListener("kwaai-state", event => { globalThis.heard = event.detail.state })</script>'
    )


@asynccontextmanager
async def visiting(host: Host, path: str) -> AsyncIterator[Page]:
    async with host.open(), await Browser.launch() as browser:
        page = await browser.new_page()
        await page.goto(host.url + path)
        yield page


async def shows(page: Page, expression: str, wanted: str) -> None:
    async def told() -> bool:
        return wanted in str(await page.evaluate(expression))

    try:
        await eventually(told)
    except TimeoutError:
        raise AssertionError(f"{expression} is {await page.evaluate(expression)!r}") from None


async def without_workers(page: Page) -> bool:
    return page.workers == {}


def only_ours(page: Page, host: Host, origin: dict[str, Any]) -> None:
    """No third party was asked for anything, and no policy was breached."""
    ours = (host.url, origin["http"], "data:", f"blob:{host.url}", "ws://127.0.0.1")
    assert [url for url in page.requests if not url.startswith(ours)] == []
    assert host.reports == []


def test_an_element_in_a_strict_page_of_another_origin(origin: dict[str, Any], examples: Path) -> None:
    button = "document.querySelector('kwaai-node').shadowRoot.querySelector('[part~={}]')"

    async def main() -> None:
        host = Host({"": element_page(origin)}, strict(origin), examples)
        async with visiting(host, "/") as page:
            await shows(page, f"{button.format('start')}?.textContent", "Agree")
            assert page.workers == {}
            assert await page.evaluate("localStorage.length") == 0, "nothing is stored before consent"
            await page.evaluate(f"{button.format('start')}.focus()")
            await page.press("Enter")
            await shows(page, "globalThis.heard", "serving")
            assert await page.evaluate("document.querySelector('kwaai-node').consent > new Date()")
            await page.evaluate(f"{button.format('pause')}.click()")
            await shows(page, f"{button.format('state')}.textContent", "Paused: as you asked")
            await page.evaluate(f"{button.format('resume')}.click()")
            await shows(page, "globalThis.heard", "serving")
            await page.evaluate(f"{button.format('stop')}.click()")
            await shows(page, "globalThis.heard", "stopped")
            await eventually(partial(without_workers, page))
            await page.evaluate("document.querySelector('kwaai-node').withdraw()")
            assert await page.evaluate("localStorage.length") == 0
            only_ours(page, host, origin)

    asyncio.run(main())

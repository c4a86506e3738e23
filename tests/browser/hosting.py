"""Somebody else's site that embeds the SDK: another origin than the relay's, with a policy.

Rule of the file: a policy reports every breach to the site itself, those of its workers included, and a
page lists every address that it, its workers and its frames asked for: what is not there did not happen.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from browser.tabs import eventually

from kwaainet.native.chromium import Browser
from kwaainet.native.page import Page

NONCE = "q83vAbcd"
BUTTON = "document.querySelector('kwaai-node').shadowRoot.querySelector('[part~={}]')"
ISOLATED = ("--site-per-process",)  # frames of other sites get processes of their own, as on every desktop
# Nothing that a page may forbid its scripts and frames is needed.
FORBIDDEN = ", ".join(
    f"{feature}=()"
    for feature in (
        *("accelerometer", "autoplay", "battery", "camera", "cross-origin-isolated", "display-capture"),
        *("encrypted-media", "fullscreen", "geolocation", "gyroscope", "hid", "idle-detection", "microphone"),
        *("midi", "payment", "picture-in-picture", "screen-wake-lock", "serial", "storage-access"),
        *("sync-xhr", "usb", "web-share", "xr-spatial-tracking"),
    )
)
EXAMPLES_RELAY = "http://127.0.0.1:8080/"  # that web/examples name


class Host:
    """A site at http://localhost; ``pages`` are its HTML by path, files come from ``folder``.

    ``reports`` are the breaches of ``policy``. The examples' relay is replaced by ``relay`` in its HTML.
    """

    def __init__(
        self, policy: str, pages: Mapping[str, str] | None = None, folder: Path | None = None, relay: str = ""
    ) -> None:
        self._policy, self._pages = f"{policy}; report-uri /report", dict(pages or {})
        self._folder, self._relay = folder, relay
        self.reports: list[dict[str, Any]] = []
        self.url = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Host]:
        """Serve on a port of its own."""
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
        headers = {"Content-Security-Policy": self._policy, "Permissions-Policy": FORBIDDEN}
        if path in self._pages:
            kind = "text/javascript" if path.endswith(".js") else "text/html"
            return web.Response(text=self._pages[path], content_type=kind, headers=headers)
        file = None if self._folder is None else self._folder / path
        if file is None or not file.is_file():
            raise web.HTTPNotFound
        if file.suffix == ".html":
            text = file.read_text().replace(EXAMPLES_RELAY, self._relay or EXAMPLES_RELAY)
            return web.Response(text=text, content_type="text/html", headers=headers)
        return web.FileResponse(file, headers=headers)


def strict(origin: Mapping[str, Any]) -> str:
    """The policy that web/sdk/package.md asks for where the SDK runs in the page, and nothing beside it."""
    own, socket = origin["http"].rstrip("/"), "ws://127.0.0.1:*"
    return (
        f"default-src 'none'; script-src 'nonce-{NONCE}' 'self' {own} 'wasm-unsafe-eval'; "
        f"worker-src blob: {own}; connect-src {own} {socket}; base-uri 'none'"
    )


def one_line(origin: Mapping[str, Any]) -> str:
    """The policy that web/sdk/package.md asks for with embed.js; the nonce is for a test's own script."""
    own = origin["http"].rstrip("/")
    return f"default-src 'none'; script-src 'nonce-{NONCE}' {own}; frame-src {own}; base-uri 'none'"


@asynccontextmanager
async def visiting(host: Host, path: str, first: str = "") -> AsyncIterator[Page]:
    """A new browser at a page of the host; ``first`` runs ahead of the page's own scripts."""
    async with host.open(), await Browser.launch(flags=ISOLATED) as browser:
        page = await browser.new_page(watch_network=True)
        if first:
            await page.run_first(first)
        await page.goto(host.url + path)
        yield page


async def shows(page: Page, expression: str, wanted: str, frame: str | None = None) -> None:
    """Await ``wanted`` in the text of an expression's value, in the page or in one of its frames."""
    said = ""

    async def told() -> bool:
        nonlocal said
        value = page.evaluate(expression) if frame is None else page.evaluate_in(frame, expression)
        said = str(await value)
        return wanted in said

    try:
        await eventually(told)
    except TimeoutError:
        raise AssertionError(f"{expression} is {said!r}, not {wanted!r}") from None


async def frame_of(page: Page) -> str:
    """The session of the page's one frame of another site, once its panel is there."""

    async def framed() -> bool:
        return len(page.frames) == 1

    await eventually(framed)
    (frame,) = page.frames
    await shows(page, "document.querySelector('kwaai-node')?.shadowRoot !== undefined", "True", frame)
    return frame


async def without_workers(page: Page) -> None:
    """Await the end of the page's workers; a browser tells it a little later."""

    async def none() -> bool:
        return page.workers == {}

    await eventually(none)


def only_ours(page: Page, host: Host, origin: Mapping[str, Any]) -> None:
    """Nobody but the site and the relay was asked for anything, and no policy was breached."""
    sockets = tuple(f"ws://127.0.0.1:{port}/" for port in socket_ports(origin))
    ours = (f"{host.url}/", origin["http"], "data:", f"blob:{host.url}", f"blob:{origin['http']}", *sockets)
    asked = page.requests
    assert any(url.startswith(origin["http"]) for url in asked), f"requests are watched: {asked}"
    assert [url for url in asked if not url.startswith(ours)] == []
    assert host.reports == [], host.reports


def socket_ports(origin: Mapping[str, Any]) -> list[str]:
    """Where the relay listens for WebSockets."""
    return [address.split("/")[4] for address in origin["maddrs"] if "/ws/" in address]

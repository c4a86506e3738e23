"""Subresource Integrity: pages pin a relay's scripts, and browsers refuse what was altered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import aiohttp
from browser.hosting import NONCE, Host, shows, visiting

FRAMES = "document.querySelectorAll('iframe').length"


def page(script: str, before: str = "") -> str:
    return f"<!doctype html><title>host</title>{before}{script}"


def embed(address: str, integrity: str) -> str:
    heard = "onload='said = `loaded`' onerror='said = `refused`'"
    return page(f"<script src='{address}' integrity='{integrity}' crossorigin {heard}></script>")


def module(origin: str, integrity: Mapping[str, str]) -> str:
    pinned = json.dumps({"integrity": {f"{origin}{path}": digest for path, digest in integrity.items()}})
    heard = "onload='said = `loaded`' onerror='said = `refused`'"
    script = f"<script type='module' src='{origin}/sdk/define.js' {heard}></script>"
    return page(script, f"<script type='importmap' nonce='{NONCE}'>{pinned}</script>")


def test_what_was_altered_is_refused(origin: dict[str, Any]) -> None:
    relay = origin["http"].rstrip("/")

    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{relay}/integrity.json") as answer:
                integrity: dict[str, str] = await answer.json()
                assert answer.headers["Access-Control-Allow-Origin"] == "*"
            async with session.get(f"{relay}/embed.js") as answer:
                altered = f"{await answer.text()}//"
        chunk = next(path for path in integrity if "chunk-" in path)
        wrong = {**integrity, chunk: integrity["/embed.js"]}
        pages = {
            "embed": embed(f"{relay}/embed.js", integrity["/embed.js"]),
            "altered.js": altered,
            "altered": embed("/altered.js", integrity["/embed.js"]),
            "module": module(relay, integrity),
            "wrong": module(relay, wrong),
        }
        host = Host("script-src 'self' 'unsafe-inline' *", pages)
        async with visiting(host, "/embed") as tab:
            await shows(tab, "globalThis.said", "loaded")
            assert await tab.evaluate(FRAMES) == 1
            await tab.goto(f"{host.url}/altered")
            await shows(tab, "globalThis.said", "refused")
            assert await tab.evaluate(FRAMES) == 0
            await tab.goto(f"{host.url}/module")
            await shows(tab, "globalThis.said", "loaded")
            assert await tab.evaluate("customElements.get('kwaai-node') !== undefined")
            await tab.goto(f"{host.url}/wrong")
            await shows(tab, "globalThis.said", "refused")
            assert await tab.evaluate("customElements.get('kwaai-node') === undefined")

    asyncio.run(main())

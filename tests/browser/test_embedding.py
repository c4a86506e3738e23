"""The SDK in somebody else's site: another origin, a strict policy, its main thread left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
from browser.hosting import (
    BUTTON,
    NONCE,
    Host,
    frame_of,
    one_line,
    only_ours,
    shows,
    strict,
    visiting,
    without_workers,
)
from browser.peers import hidden_states, joined
from browser.tasks import LONG, not_long, tasks

from kwaainet.errors import LocalError
from kwaainet.native.page import Page

# A task that is long on purpose, so that its absence would tell that none was seen.
MARK = (
    "new Promise(done => setTimeout(() => { let sum = 0;"
    "for (let n = 0; n < 2e8; n++) sum += n % 7; globalThis.sum = sum; done() }))"
)
PANEL = "document.querySelector('kwaai-node')?.status?.()"


def element_page(origin: Mapping[str, Any]) -> str:
    return (
        "<!doctype html><title>host</title>"
        f'<script type="module" nonce="{NONCE}" src="{origin["http"]}sdk/define.js"></script>'
        f'<kwaai-node relay="{origin["http"]}"></kwaai-node>'
        f'<script nonce="{NONCE}">const panel = document.querySelector("kwaai-node");'
        'panel.options = { backend: "wasm" };'  # before it is defined, as frameworks do
        'addEventListener("kwaai-state", event => { globalThis.heard = event.detail.state })</script>'
    )


def node_page(origin: Mapping[str, Any]) -> str:
    return (
        "<!doctype html><title>host</title>"
        f'<script type="module" nonce="{NONCE}">import {{ createNode }} from "{origin["http"]}sdk/index.js";'
        f'globalThis.node = createNode({{ relay: "{origin["http"]}", backend: "wasm" }})</script>'
    )


def script_page(origin: Mapping[str, Any]) -> str:
    return (
        "<!doctype html><title>host</title>"
        f'<script src="{origin["http"]}embed.js" data-backend="wasm"></script>'
    )


def test_an_element_in_a_strict_page_of_another_origin(origin: dict[str, Any]) -> None:
    async def main() -> None:
        host = Host(strict(origin), {"": element_page(origin)})
        async with visiting(host, "/") as page:
            await shows(page, f"{BUTTON.format('start')}?.textContent", "Agree")
            assert page.workers == {}
            assert await page.evaluate("localStorage.length") == 0, "nothing is stored before consent"
            await page.evaluate(f"{BUTTON.format('start')}.focus()")
            await page.press("Enter")
            await shows(page, "globalThis.heard", "serving")
            assert await page.evaluate("document.querySelector('kwaai-node').consent > new Date()")
            await page.evaluate(f"{BUTTON.format('pause')}.click()")
            await shows(page, f"{BUTTON.format('state')}.textContent", "Paused: as you asked")
            await page.evaluate(f"{BUTTON.format('resume')}.click()")
            await shows(page, "globalThis.heard", "serving")
            await page.evaluate(f"{BUTTON.format('stop')}.click()")
            await shows(page, "globalThis.heard", "stopped")
            await without_workers(page)
            await page.evaluate("document.querySelector('kwaai-node').withdraw()")
            assert await page.evaluate("localStorage.length") == 0
            only_ours(page, host, origin)

    asyncio.run(main())


def test_attributes_properties_events_and_parts_are_an_elements(origin: dict[str, Any]) -> None:
    """Nothing is started: what the element shows and says without a relay."""
    element = "document.querySelector('kwaai-node')"

    async def main() -> None:
        host = Host(strict(origin), {"": element_page(origin)})
        async with visiting(host, "/") as page:
            await shows(page, f"{BUTTON.format('start')}?.textContent", "Agree")
            await page.evaluate(f"{element}.theme = 'dark'; {element}.setAttribute('model', 'other')")
            asked = f"[{element}.getAttribute('theme'), {element}.model, {element}.blocks, {element}.relay]"
            assert await page.evaluate(asked) == ["dark", "other", "", origin["http"]]
            parts = f"[...{element}.shadowRoot.querySelectorAll('[part]')].flatMap(each => [...each.part])"
            documented = {"panel", "about", "state", "progress", "problem", "buttons", "button", "start"}
            assert documented <= set(await page.evaluate(parts))
            await page.evaluate(
                "const sheet = new CSSStyleSheet(); document.adoptedStyleSheets = [sheet];"
                "sheet.replaceSync('kwaai-node { --kwaai-padding: 7px } ::part(about) { color: red }')"
            )
            style = f"getComputedStyle({element}).padding"
            assert await page.evaluate(style) == "7px"
            about = f"getComputedStyle({element}.shadowRoot.querySelector('[part=about]')).color"
            assert await page.evaluate(about) == "rgb(255, 0, 0)"
            refused = f"{element}.start().catch(error => error.message)"
            assert "has not consented" in await page.evaluate(refused)
            with pytest.raises(LocalError, match=r"TypeError: limits\.duty is 2"):
                await page.evaluate(f"{element}.limits = {{ duty: 2 }}")
            await page.evaluate(f"{BUTTON.format('start')}.click()")
            await shows(page, "globalThis.heard", "failed")
            await shows(page, f"{BUTTON.format('problem')}.textContent", "not other")
            expired = "localStorage.setItem(localStorage.key(0), String(Date.now() - 1))"
            await page.evaluate(f"{expired}; {element}.theme = 'light'")
            assert await page.evaluate(f"{element}.consent") is None
            await shows(page, f"{BUTTON.format('start')}.textContent", "Agree")

    asyncio.run(main())


async def leave(page: Page, host: Host) -> None:
    """While it serves; what it does last is seen as well, for the new page is of the same process."""
    await page.goto(f"{host.url}/empty")


async def stop(page: Page, host: Host) -> None:
    await page.evaluate("node.stop()")


async def compute(origin: Mapping[str, Any], server: str) -> None:
    """Have a prompt and some tokens computed, one after the other."""
    async with joined(origin["tcp"]) as peer:
        session = await peer.session(server)
        for tokens in (32, *[1] * 16):
            await session.step(hidden_states(1, tokens))
        await session.stream.close()


@pytest.mark.parametrize(
    ("policy", "make", "start", "status", "end"),
    [
        (strict, element_page, f"{BUTTON.format('start')}.click()", PANEL, leave),
        (strict, node_page, "void node.start()", "globalThis.node?.status()", stop),
        (one_line, script_page, f"{BUTTON.format('start')}.click()", PANEL, leave),
    ],
    ids=["element", "node", "script"],
)
def test_no_task_of_the_host_is_long(
    origin: dict[str, Any], policy: Any, make: Any, start: str, status: str, end: Any
) -> None:
    """From the import to the end, computing for somebody meanwhile."""

    async def visit() -> float:
        host = Host(policy(origin), {"": make(origin), "empty": "<!doctype html>"})
        async with visiting(host, "/empty") as page, tasks(page) as seen:
            await page.goto(f"{host.url}/")
            frame = await frame_of(page) if make is script_page else None
            evaluate = page.evaluate if frame is None else partial(page.evaluate_in, frame)
            await shows(page, f"{status}?.state", "idle", frame)
            await evaluate(start)
            await shows(page, f"{status}?.state", "serving", frame)
            await compute(origin, await evaluate(f"{status}.peerId"))
            await end(page, host)
            await page.evaluate(MARK)
        *others, longest = sorted(seen)
        assert longest > LONG, "the one that is meant to be"
        return others[-1]

    asyncio.run(not_long(visit))

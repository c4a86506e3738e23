"""The contributor's page: for everybody's eyes and hands, and true to what it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.page_states import DESK, PHONE, STATES, open_page, show, visit
from browser.peers import ALL, PREFIX, hidden_states, joined
from browser.tabs import Tab, eventually
from browser.talking import write_talking_model
from interop.running import ROOT, relay

from kwaainet.errors import RpcError
from kwaainet.native.chromium import Browser
from kwaainet.types import ServerState

AXE = (ROOT / "node_modules" / "axe-core" / "axe.min.js").read_text()
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
VIOLATIONS = """
axe.run({ runOnly: %s }).then(({ violations }) => violations.map(({ id, nodes }) =>
  id + ': ' + nodes.map(({ target, failureSummary }) => target + ' ' + failureSummary).join(' | ')))
"""
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
RELOADS = 3
BREAKABLE = """
const Made = Worker
globalThis.made = []
globalThis.Worker = class extends Made {
  constructor (...words) { super(...words); made.push([String(words[0]), this]) }
}
"""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A relay with a model that can be talked to."""
    folder: Path = tmp_path_factory.mktemp("page")
    model = write_talking_model(folder / "model")
    with relay(folder, "--model", model, "--prefix", PREFIX) as ready:
        yield ready


async def faults(tab: Tab) -> list[str]:
    """What axe has against the page as it is."""
    await tab.page.evaluate(f"void (() => {{ {AXE} }})()")
    found: list[str] = await tab.page.evaluate(VIOLATIONS % json.dumps(RULES))
    return found


def test_every_state_can_be_read_by_everybody(origin: dict[str, Any]) -> None:
    """In both colour schemes, wide and on a phone; elsewhere asks nothing of the network but its relay."""

    async def main() -> None:
        async with visit(origin["http"]) as seen:
            for state in STATES:
                await state(seen)
                for width, scheme in ((DESK, "light"), (PHONE, "dark")):
                    await show(seen.tab, width, scheme)
                    assert await faults(seen.tab) == [], (state.__name__, scheme)
                    assert await seen.tab.page.evaluate(TOO_WIDE) <= 0, (state.__name__, width)
            foreign = [url for url in seen.tab.page.requests if not url.startswith((origin["http"], "data:"))]
            assert foreign == [], "nobody but the relay is asked for anything"

    asyncio.run(main())


async def tab_to(tab: Tab, element: str) -> None:
    """Press Tab until an element has the focus, which must be seen."""
    for _ in range(60):
        await tab.page.press("Tab")
        if await tab.page.evaluate("document.activeElement.id") == element:
            outline = await tab.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", f"nobody sees that #{element} has the focus"
            return
    raise AssertionError(f"the keyboard does not reach #{element}")


def test_a_keyboard_is_enough(origin: dict[str, Any]) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            tab = await open_page(browser, origin["http"])
            await tab.reads("preflight-summary", "This browser can contribute")
            await tab_to(tab, "contribute")
            await tab.page.press("Enter")
            await tab.until("online")
            assert await tab.page.evaluate("document.activeElement.id") == "pause", "the focus goes on"
            await tab.page.press("Enter")
            await tab.reads("state", "Paused: you asked for it.")
            await tab.page.press("Enter")
            await tab.reads("state", "Online")
            await tab_to(tab, "stop")
            await tab.page.press("Enter")
            await tab.until("offline")
            await tab.reads("state", "Not contributing.")
            assert await tab.page.evaluate("document.activeElement.id") == "contribute"

    asyncio.run(main())


def test_a_pause_is_known_to_the_swarm_and_limits_hold_at_once(origin: dict[str, Any]) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser, joined(origin["tcp"]) as peer:
            tab = await open_page(browser, origin["http"])
            server = (await tab.contribute())["peer_id"]

            async def is_said(state: ServerState) -> None:
                async def said() -> bool:
                    return set(await peer.states(PREFIX, len(ALL), server)) == {state}

                await eventually(said)

            session = await peer.session(server)
            await session.step(hidden_states(1, 3))
            await tab.page.evaluate("unplug()")
            with pytest.raises(RpcError, match="owner has paused"):
                await session.answer()
            await is_said(ServerState.OFFLINE)
            await tab.click("onBattery")
            await is_said(ServerState.ONLINE)
            await tab.page.evaluate(
                "void Object.assign(document.getElementById('memory'), { value: '1' })"
                ".dispatchEvent(new Event('change', { bubbles: true }))"
            )
            await tab.reads("state", "the weights alone take more memory")
            await is_said(ServerState.OFFLINE)
            await tab.page.reload()
            kept = "[document.getElementById('onBattery').checked, document.getElementById('memory').value]"
            assert await tab.page.evaluate(kept) == [False, "1"], "they are this browser's now"

    asyncio.run(main())


def test_what_was_given_is_remembered_until_it_is_deleted(origin: dict[str, Any]) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            tab = await open_page(browser, origin["http"])
            assert await tab.page.evaluate("localStorage.length") == 0
            await tab.contribute()
            await tab.page.reload()
            await tab.reads("history-note", "Added up by day")
            assert await tab.page.evaluate("document.getElementById('history-rows').rows.length") == 1
            await tab.click("history-delete")
            await tab.reads("history-note", "Nothing yet")
            assert await tab.page.evaluate("localStorage.getItem('kwaainet-history')") is None

    asyncio.run(main())


def test_what_breaks_is_explained_or_mended(origin: dict[str, Any]) -> None:
    """A worker that crashes, storage cleared while serving, no room to keep anything."""

    async def main() -> None:
        async with await Browser.launch() as browser, joined(origin["tcp"]) as peer:
            tab = await open_page(browser, origin["http"], webrtc="off")
            await tab.page.run_first(BREAKABLE)
            await tab.page.reload()
            for worker in ("network", "node"):
                server = (await tab.contribute())["peer_id"]
                await tab.page.evaluate(
                    f"made.findLast(([url]) => url.includes('/{worker}.js'))[1]"
                    ".dispatchEvent(new ErrorEvent('error', { message: 'it crashed' }))"
                )
                await tab.reads("problem", f"the {worker} worker broke: it crashed")

                async def gone(server: str = server) -> bool:
                    return ServerState.ONLINE not in await peer.states(PREFIX, len(ALL), server)

                await eventually(gone)
            site = {"origin": origin["http"].rstrip("/")}
            await tab.page.command("Storage.overrideQuotaForOrigin", {**site, "quotaSize": 20_000})
            await tab.page.command("Storage.clearDataForOrigin", {**site, "storageTypes": "all"})
            since = len(tab.events)
            await tab.click("contribute")
            online = await tab.until("online", since=since)
            await tab.page.command("Storage.clearDataForOrigin", {**site, "storageTypes": "all"})
            session = await peer.session(online["peer_id"])
            await session.step(hidden_states(1, 3))
            await session.stream.close()
            assert await tab.text("problem") == ""

    asyncio.run(main())


def test_reloads_leave_no_ghost(origin: dict[str, Any]) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser, joined(origin["tcp"]) as peer:
            tab = await open_page(browser, origin["http"])
            servers = set()
            for _ in range(RELOADS):
                servers.add((await tab.contribute())["peer_id"])
                await tab.page.reload()

            async def all_gone() -> bool:
                found = [await peer.states(PREFIX, len(ALL), server) for server in servers]
                return all(ServerState.ONLINE not in states for states in found)

            await eventually(all_gone)
            assert len(servers) == 1, "the identity is kept"

    asyncio.run(main())


def test_no_script_but_its_own_runs(origin: dict[str, Any]) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            tab = await open_page(browser, origin["http"])
            inline = "Object.assign(document.createElement('script'), { textContent: 'globalThis.bad = 1' })"
            await tab.page.evaluate(f"document.body.append({inline})")
            await tab.page.evaluate("void setTimeout('globalThis.worse = 1')")
            await tab.page.evaluate("new Promise(resolve => setTimeout(resolve))")
            assert await tab.page.evaluate("[globalThis.bad, globalThis.worse]") == [None, None]

    asyncio.run(main())

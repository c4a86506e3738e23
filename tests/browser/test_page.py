"""The contributor's page: for everybody's eyes and hands, and true to what it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.clocks import zone_of_noon
from browser.page_states import (
    CRASH,
    DESK,
    PHONE,
    STATES,
    open_page,
    populate,
    show,
    two_models,
    visit,
)
from browser.peers import ALL, PREFIX, hidden_states, joined
from browser.tabs import Tab, eventually
from browser.tasks import not_long, tasks
from interop.running import ROOT

from kwaainet.errors import KwaaiNetError
from kwaainet.native.chromium import Browser
from kwaainet.types import ServerState

AXE = (ROOT / "node_modules" / "axe-core" / "axe.min.js").read_text()
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
VIOLATIONS = """
axe.run({ runOnly: %s }).then(({ violations }) => violations.map(({ id, nodes }) =>
  id + ': ' + nodes.map(({ target, failureSummary }) => target + ' ' + failureSummary).join(' | ')))
"""
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
HEARING = """
globalThis.heard = []
new MutationObserver(() => { heard.push(document.getElementById('state-heard').textContent) })
  .observe(document.getElementById('state-heard'), { childList: true })
"""
CHANNELS = """
globalThis.channels = []
const make = RTCPeerConnection.prototype.createDataChannel
RTCPeerConnection.prototype.createDataChannel = function (label, ...more) {
  const channel = make.call(this, label, ...more)
  if (label === 'awake') channels.push(channel)
  return channel
}
"""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A relay with two models that can be talked to."""
    folder: Path = tmp_path_factory.mktemp("page")
    with two_models(folder) as ready:
        yield ready


async def faults(tab: Tab) -> list[str]:
    """What axe has against the page as it is."""
    if await tab.page.evaluate("globalThis.axe === undefined"):
        await tab.page.evaluate(f"void (() => {{ {AXE} }})()")
    found: list[str] = await tab.page.evaluate(VIOLATIONS % json.dumps(RULES))
    return found


def test_every_state_can_be_read_by_everybody(origin: dict[str, Any]) -> None:
    """In both colour schemes, wide and on a phone; it asks nothing of the network but its relay."""

    async def main() -> None:
        async with joined(origin["tcp"]) as peer, visit(origin["http"]) as seen:
            await populate(peer)
            for state in STATES:
                await state(seen)
                for width, scheme in ((DESK, "light"), (PHONE, "dark")):
                    await show(seen.tab, width, scheme)
                    assert await faults(seen.tab) == [], (state.__name__, width, scheme)
                    assert await seen.tab.page.evaluate(TOO_WIDE) <= 0, (state.__name__, width)
            ws = next(address.split("/")[4] for address in origin["maddrs"] if "/ws/" in address)
            own = (origin["http"], f"ws://127.0.0.1:{ws}/", "data:")
            foreign = [url for url in seen.tab.page.requests if not url.startswith(own)]
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
            await tab.page.evaluate(HEARING)
            await tab_to(tab, "contribute")
            await tab.page.press("Enter")
            await tab.until("online")
            assert await tab.page.evaluate("document.activeElement.id") == "pause", "the focus goes on"
            heard = await tab.page.evaluate("heard")
            assert heard[-1].startswith("Online"), heard
            assert len(heard) < 20, "a screen reader would hear of nothing else"
            await tab.page.press("Enter")
            await tab.reads("state", "Paused: you asked for it.")
            await tab.page.press("Enter")
            await tab.reads("state", "Online")
            for leave in ("stop", "finish"):
                await tab.reads("state", "Online")
                await tab_to(tab, leave)
                since = len(tab.events)
                await tab.page.press("Enter")
                await tab.until("offline", since=since)
                await tab.reads("state", "Not contributing.")
                assert await tab.page.evaluate("document.activeElement.id") == "contribute"
                if leave == "stop":
                    await tab.page.press("Enter")

    asyncio.run(main())


REACHABLE = """
[...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex="0"]')]
  .filter(one => one.checkVisibility() && !one.disabled)
  .filter(one => one.type !== 'radio' || one.checked).length
"""
# What grew above it has moved it, until the next frame.
FOCUSED = """
(async () => {
  const one = document.activeElement
  if (one === document.body || globalThis.walked.has(one)) return null
  globalThis.walked.add(one)
  const { outlineStyle, outlineWidth } = getComputedStyle(one)
  const outlined = outlineStyle !== 'none' && outlineWidth !== '0px'
  const isSeen = ({ top, bottom } = one.getBoundingClientRect()) => bottom > 0 && top < innerHeight
  for (let frames = 0; frames < 2 && !isSeen(); frames++) await new Promise(requestAnimationFrame)
  return [one.id || one.textContent || one.className, outlined, isSeen()]
})()
"""


def test_the_keyboard_reaches_all_there_is_in_order_and_sees_where_it_is(origin: dict[str, Any]) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            tab = await open_page(browser, origin["http"])
            await tab.reads("preflight-summary", "This browser can contribute")
            await tab.contribute()
            await tab.reads("tiles", "tokens in all")  # what appears moves what is below
            await tab.reads("coverage", "A request could go to this tab")
            await tab.page.evaluate(
                "void (globalThis.walked = new Set(), document.body.tabIndex = -1, document.body.focus(),"
                " document.body.removeAttribute('tabindex'))"
            )
            reachable = await tab.page.evaluate(REACHABLE)
            walked = []
            for _ in range(3 * reachable):  # time inputs stop at each of their parts
                await tab.page.press("Tab")
                found = await tab.page.evaluate(FOCUSED)
                if found is not None:
                    walked.append(found)
            names = [name for name, _, _ in walked]
            assert len(walked) >= reachable, names
            assert [name for name, outlined, seen in walked if not (outlined and seen)] == []
            places = [names.index(one) for one in ("Contribute", "pause", "stop", "duty", "chat-input")]
            assert places == sorted(places), names

    asyncio.run(main())


def test_nothing_that_the_page_does_while_it_serves_is_felt(origin: dict[str, Any]) -> None:
    async def visit() -> float:
        async with await Browser.launch() as browser, joined(origin["tcp"]) as peer:
            tab = await open_page(browser, origin["http"])
            async with tasks(tab.page) as seen:
                session = await peer.session((await tab.contribute())["peer_id"])
                for tokens in (32, *[1] * 16):
                    await session.step(hidden_states(1, tokens))
                await tab.reads("tiles", "tokens in all")
            return max(seen)

    asyncio.run(not_long(visit))


def test_what_was_given_is_remembered_until_it_is_deleted(origin: dict[str, Any]) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser, joined(origin["tcp"]) as peer:
            tab = await open_page(browser, origin["http"])
            await tab.page.command("Emulation.setTimezoneOverride", {"timezoneId": zone_of_noon()})
            assert await tab.page.evaluate("localStorage.length") == 0
            session = await peer.session((await tab.contribute())["peer_id"])
            await session.step(hidden_states(1, 32))
            await tab.reads("tiles", "tokens in all")
            await tab.page.reload()
            await tab.reads("history-note", "Added up by day")
            await tab.reads("notices", "This page was reloaded or left while it contributed")
            assert await tab.page.evaluate("document.getElementById('history-rows').rows.length") == 1
            await tab.click("history-delete")
            await tab.reads("history-note", "Nothing yet")
            assert await tab.page.evaluate("localStorage.getItem('kwaainet-history')") is None
            await tab.page.reload()
            await tab.reads("preflight-summary", "This browser can contribute")
            assert await tab.text("notices") == "", "it is said once"

    asyncio.run(main())


def test_a_worker_that_crashes_is_started_anew_and_its_owner_may_stop_that(origin: dict[str, Any]) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser, joined(origin["tcp"]) as peer:
            tab = await open_page(browser, origin["http"], webrtc="off")
            server = (await tab.contribute())["peer_id"]
            for worker, does, wait in (("network", "talks to the network", 2), ("node", "computes", 10)):
                since = len(tab.events)
                await tab.page.evaluate(CRASH % worker)
                await tab.reads("notices", f"{does} broke. It starts anew in {wait} s")
                if wait == 2:
                    await tab.again(since)
            await tab.click("stop")

            async def gone() -> bool:
                return ServerState.ONLINE not in await peer.states(PREFIX, len(ALL), server)

            await eventually(gone)

            async def ended() -> bool:  # at once, unless it has been started anew meanwhile
                return await tab.text("stop") == ""

            await eventually(ended)

    asyncio.run(main())


SLOWLY = """
void (({ entries }) => {
  FileSystemDirectoryHandle.prototype.entries = async function * () {
    const found = await Array.fromAsync(entries.call(this))
    if (globalThis.slow) await new Promise(answer => Object.assign(globalThis, { slow: false, answer }))
    yield * found
  }
})(FileSystemDirectoryHandle.prototype)
"""


async def look_slowly(tab: Tab) -> None:
    """Have the page look at what is kept, and told it by ``answer()`` only."""
    await tab.page.evaluate(SLOWLY)
    await tab.page.evaluate("globalThis.slow = true, document.dispatchEvent(new Event('visibilitychange'))")

    async def looks() -> bool:
        return bool(await tab.page.evaluate("globalThis.answer !== undefined"))

    await eventually(looks)


def test_what_is_kept_is_shown_and_deleted_and_storage_that_fails_is_no_end(origin: dict[str, Any]) -> None:
    """Cleared while serving, or without room to keep anything, a tab serves on."""

    async def main() -> None:
        async with await Browser.launch() as browser, joined(origin["tcp"]) as peer:
            tab = await open_page(browser, origin["http"], webrtc="off")
            await tab.reads("kept-note", "Nothing.")
            await tab.contribute()
            await tab.reads("kept-models", f"{PREFIX}: {len(ALL)} blocks, ")
            await look_slowly(tab)
            await tab.click("kept-delete")
            await tab.reads("kept-note", "MB deleted.")
            await tab.page.evaluate("answer()")
            assert await tab.text("kept-models") == "", "what was seen before it was deleted is no news"
            await tab.stop()
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


def test_a_frozen_tab_goes_on_by_itself_and_says_so(origin: dict[str, Any]) -> None:
    """Frozen as browsers freeze hidden tabs; with its owner's consent one channel holds that off."""

    async def main() -> None:
        async with await Browser.launch() as browser, joined(origin["tcp"]) as peer:
            tab = await open_page(browser, origin["http"])
            await tab.page.run_first(CHANNELS)
            await tab.page.reload()
            server = (await tab.contribute())["peer_id"]
            assert await tab.page.evaluate("channels.length") == 0
            await tab.click("unfrozen")

            async def held() -> bool:
                return await tab.page.evaluate("channels.map(one => one.readyState).join()") == "open"

            await eventually(held)
            await tab.page.command("Page.setWebLifecycleState", {"state": "frozen"})
            await tab.page.command("Page.setWebLifecycleState", {"state": "active"})
            await tab.reads("notices", "The browser froze this tab for")

            async def serves() -> bool:
                try:
                    session = await peer.session(server)
                    await session.step(hidden_states(1, 3))
                    await session.stream.close()
                except KwaaiNetError:  # the relay let it go meanwhile, and it is on its way back
                    return False
                return True

            await eventually(serves)
            await tab.stop()

            async def let_go() -> bool:
                return await tab.page.evaluate("channels.map(one => one.readyState).join()") == "closed"

            await eventually(let_go)

    asyncio.run(main())


def test_sleep_and_a_network_that_went_are_shown(origin: dict[str, Any]) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            tab = await open_page(browser, origin["http"])
            await tab.contribute()
            offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
            await tab.page.command("Network.emulateNetworkConditions", offline)
            await tab.reads("notices", "This machine has no network.")
            await tab.page.command("Network.emulateNetworkConditions", {**offline, "offline": False})
            await tab.reads("notices", "The network is back.")
            await tab.page.evaluate("void (now => { Date.now = () => now() + 600_000 })(Date.now)")
            await tab.reads("notices", "This machine slept for 10 min. Going on.")
            await tab.reads("state", "Online")

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

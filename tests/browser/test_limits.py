"""A contributor's limits, each in a real tab: what it does, what the page says and what the swarm is told."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from browser.clocks import SETTABLE, pass_time, zone_of_noon
from browser.page_states import open_page
from browser.peers import ALL, PREFIX, Peer, hidden_states, joined
from browser.tabs import Tab, eventually

from kwaainet.errors import RpcError
from kwaainet.native.chromium import Browser
from kwaainet.types import ServerState


async def enter(tab: Tab, field: str, value: str, event: str = "change") -> None:
    """Fill in a field and leave it."""
    await tab.page.evaluate(
        f"void Object.assign(document.getElementById('{field}'), {{ value: '{value}' }})"
        f".dispatchEvent(new Event('{event}', {{ bubbles: true }}))"
    )


async def share_of_computing(tab: Tab, peer: Peer, server: str) -> float:
    """Of the time that the first steps of a tab's first session take, what its engine says it computed."""
    session = await peer.session(server, 500)
    started = time.monotonic()
    for tokens in (120, 120, 120, 120, 1):  # the last one waits until the engine has rested from the others
        await session.step(hidden_states(4, tokens))
    elapsed = time.monotonic() - started
    busy = (await tab.until("serving", requests_done=5))["busy"]
    await session.stream.close()
    return float(busy / elapsed)


async def save_data(tab: Tab, saves: bool) -> None:
    """As on a metered connection."""
    await tab.page.command("Emulation.setDataSaverOverride", {"dataSaverEnabled": saves})
    await tab.page.evaluate("void navigator.connection.dispatchEvent(new Event('change'))")


IN_MINUTES = "new Date(Date.now() + %d * 60_000).toTimeString().slice(0, 5)"


class Contributor:
    """A tab that serves, as the swarm sees it."""

    def __init__(self, tab: Tab, peer: Peer, server: str) -> None:
        self.tab, self.peer, self.server = tab, peer, server

    async def is_said_to_be(self, state: ServerState) -> None:
        async def said() -> bool:
            return set(await self.peer.states(PREFIX, len(ALL), self.server)) == {state}

        await eventually(said)

    async def pauses(self, why: str) -> None:
        await self.tab.reads("state", f"Paused: {why}.")
        await self.is_said_to_be(ServerState.OFFLINE)

    async def goes_on(self) -> None:
        await self.tab.reads("state", "Online")
        await self.is_said_to_be(ServerState.ONLINE)


async def whatever_the_machine_does(one: Contributor) -> None:
    """Each pauses the node when the machine changes, and lets it go on by itself when it changes back."""
    tab = one.tab
    session = await one.peer.session(one.server)
    await session.step(hidden_states(1, 3))
    await tab.page.evaluate("unplug()")
    with pytest.raises(RpcError, match="owner has paused"):
        await session.answer()
    await one.pauses("this machine runs on its battery")
    await tab.reads("receipts", "until it was paused")
    await tab.page.evaluate("plug()")
    await one.goes_on()
    await save_data(tab, True)
    await one.pauses("this connection is metered")
    await save_data(tab, False)
    await one.goes_on()
    await tab.click("whenHidden")
    await tab.hide()
    await one.pauses("this tab is hidden")
    await tab.unhide()
    await one.goes_on()
    assert "went on serving" not in await tab.text("notices")


async def by_the_clock(one: Contributor) -> None:
    """The node pauses when its hour ends and comes back when the next begins, with nobody there."""
    tab = one.tab
    await enter(tab, "hours-to", await tab.page.evaluate(IN_MINUTES % 3))
    assert "Online" in await tab.text("state")
    await pass_time(tab, 180)
    await one.pauses("it is outside the hours you set")
    await enter(tab, "hours-from", await tab.page.evaluate(IN_MINUTES % 3))
    await enter(tab, "hours-to", "14:00")
    assert "Paused" in await tab.text("state")
    await pass_time(tab, 180)
    await one.goes_on()
    await enter(tab, "hours-from", "10:00")


async def whatever_its_owner_sets(one: Contributor) -> None:
    """A change of the form holds at once."""
    tab = one.tab
    await tab.page.evaluate("unplug()")
    await tab.reads("state", "Paused: this machine runs on its battery.")
    await tab.click("onBattery")
    await tab.reads("state", "Online")
    await tab.page.command("Emulation.setTimezoneOverride", {"timezoneId": zone_of_noon()})
    await tab.click("hours")
    await tab.reads("state", "Paused: it is outside the hours you set.")
    await enter(tab, "hours-from", "10:00")
    await enter(tab, "hours-to", "14:00")
    await tab.reads("state", "Online")
    await by_the_clock(one)
    await enter(tab, "watts", "25")
    await tab.reads("energy-note", "of computing at the 25 W you gave")
    await enter(tab, "memory", "1")
    await one.pauses("the weights alone take more memory than you allow")


async def is_kept(tab: Tab) -> None:
    """The form is this browser's from the click on."""
    await tab.page.reload()
    assert not await tab.page.evaluate("document.getElementById('onBattery').checked")
    assert await tab.page.evaluate("document.getElementById('whenHidden').checked")
    kept = "['memory', 'hours-to', 'watts'].map(id => document.getElementById(id).value)"
    assert await tab.page.evaluate(kept) == ["1", "14:00", "25"]


def test_a_pause_is_known_to_the_swarm_and_limits_hold_at_once(origin: dict[str, Any]) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser, joined(origin["tcp"]) as peer:
            tab = await open_page(browser, origin["http"])
            await tab.page.run_first(SETTABLE)
            tab.page.run_first_in_workers(SETTABLE)
            await tab.page.reload()
            one = Contributor(tab, peer, (await tab.contribute())["peer_id"])
            await enter(tab, "duty", "10", "input")
            assert 0 < await share_of_computing(tab, peer, one.server) < 0.25
            await whatever_the_machine_does(one)
            await whatever_its_owner_sets(one)
            await is_kept(tab)

    asyncio.run(main())

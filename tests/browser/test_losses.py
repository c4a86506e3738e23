"""A tab whose parts are lost while it serves, workers or what it keeps: said or mended without a reload."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from browser.peers import ALL, PREFIX, Peer, Session, hidden_states, joined
from browser.tabs import SOON, Tab, eventually, open_tab

from kwaainet.errors import KwaaiNetError
from kwaainet.native.chromium import Browser
from kwaainet.types import ServerState

ENDS = {  # in the worker: it is gone without a word; something in it was not caught
    "gone": ("close()", "it is gone; the browser may have run out of memory"),
    "thrown": ("void setTimeout(() => { throw new Error('it crashed') })", "it crashed"),
}


@dataclass(frozen=True)
class Scene:
    """A tab that serves, the peer that asks it, and their session, one step old."""

    tab: Tab
    server: str
    peer: Peer
    session: Session


@asynccontextmanager
async def serving(origin: dict[str, Any]) -> AsyncIterator[Scene]:
    async with await Browser.launch() as browser, joined(origin["tcp"]) as peer:
        tab = await open_tab(browser, origin["http"], backend="wasm", webrtc="off")
        server = (await tab.contribute())["peer_id"]
        session = await peer.session(server)
        await session.step(hidden_states(1, 3))
        yield Scene(tab, server, peer, session)


def worker_of(tab: Tab, name: str) -> str:
    """The DevTools session of one of the tab's workers."""
    return next(session for session, url in tab.page.workers.items() if f"/{name}.js" in url)


@pytest.mark.parametrize(("name", "how"), [("node", "thrown"), ("node", "gone"), ("network", "gone")])
def test_a_worker_that_ends_is_said_and_started_again(origin: dict[str, Any], name: str, how: str) -> None:
    async def main() -> None:
        async with serving(origin) as scene:
            tab = scene.tab
            end, reason = ENDS[how]
            before = len(tab.events)
            await tab.page.worker_command(worker_of(tab, name), "Runtime.evaluate", {"expression": end})

            async def said() -> bool:
                return any(event["event"] == "error" for event in tab.events[before:])

            await eventually(said)
            broke = next(at for at in range(before, len(tab.events)) if tab.events[at]["event"] == "error")
            assert f"the {name} worker broke: " in tab.events[broke]["message"]
            assert reason in tab.events[broke]["message"]
            with pytest.raises(KwaaiNetError):
                await asyncio.wait_for(scene.session.step(hidden_states(1, 1)), SOON)
            online = await tab.until("online", since=broke + 1)
            assert online["peer_id"] == scene.server, "without a click"
            await (await scene.peer.session(scene.server)).step(hidden_states(1, 3))

    asyncio.run(main())


def test_storage_cleared_while_serving(origin: dict[str, Any]) -> None:
    """All the browser kept for the site: the tab serves on, and the next visit begins like the first."""

    async def main() -> None:
        async with serving(origin) as scene:
            tab, first, peer = scene.tab, scene.server, scene.peer
            site = {"origin": origin["http"].rstrip("/"), "storageTypes": "all"}
            await tab.page.command("Storage.clearDataForOrigin", site)
            await scene.session.step(hidden_states(1, 1))
            assert await peer.states(PREFIX, len(ALL), first) == [ServerState.ONLINE] * len(ALL)
            await tab.page.reload()
            second = (await tab.contribute())["peer_id"]
            assert second != first, "the identity was among it"
            await (await peer.session(second)).step(hidden_states(1, 3))

            async def no_ghost() -> bool:
                return ServerState.ONLINE not in await peer.states(PREFIX, len(ALL), first)

            await eventually(no_ghost)
            assert await tab.text("problem") == ""

    asyncio.run(main())

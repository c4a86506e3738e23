"""A tab that is reloaded again and again leaves nothing behind, in the DHT or at the relay."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Any

from browser.peers import ALL, PREFIX, hidden_states, joined
from browser.tabs import eventually, open_tab
from nightly.sizes import size

from kwaainet.native.chromium import Browser
from kwaainet.types import ServerState


def status(origin: dict[str, Any]) -> dict[str, Any]:
    with urllib.request.urlopen(f"{origin['http']}status.json", timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_reloads_leave_no_ghost(origin: dict[str, Any]) -> None:
    """Every other time in the midst of a session."""

    async def main() -> None:
        async with await Browser.launch() as browser, joined(origin["tcp"]) as peer:
            tab = await open_tab(browser, origin["http"], backend="wasm")
            before = await asyncio.to_thread(status, origin)
            servers = set()
            for turn in range(size(3, 30)):
                servers.add(server := (await tab.contribute())["peer_id"])
                if turn % 2:
                    await (await peer.session(server)).step(hidden_states(1, 3))
                await tab.page.reload()
            assert len(servers) == 1, "the identity is kept"

            async def all_gone() -> bool:
                found = [await peer.states(PREFIX, len(ALL), server) for server in servers]
                return all(ServerState.ONLINE not in states for states in found)

            await eventually(all_gone)

            async def nothing_kept() -> bool:
                now = await asyncio.to_thread(status, origin)
                figures = ("peers", "reservations", "circuits", "announced")
                return [now[name] for name in figures] == [before[name] for name in figures]

            await eventually(nothing_kept)

    asyncio.run(main())

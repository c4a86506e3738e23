"""The relay is gone for a minute and comes back: so does every tab, by itself, and its owner is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from browser.fixed_relay import FixedRelay
from browser.peers import ALL, PREFIX, expected, hidden_states, joined
from browser.tabs import eventually, open_tab
from nightly.sizes import size

from kwaainet.native.chromium import Browser
from kwaainet.types import ServerState

AWAY = size(3.0, 60.0)  # seconds


def test_a_relay_that_was_away(small_model: Path, tmp_path: Path) -> None:
    relay = FixedRelay(tmp_path, small_model)

    async def main() -> None:
        async with await Browser.launch() as browser:
            with relay.started() as running:
                running.event("ready")
                tab = await open_tab(browser, relay.url, backend="wasm")
                server = (await tab.contribute())["peer_id"]
                before = len(tab.events)
                running.process.kill()
                await tab.until("connection", since=before, connection="lost")
                await tab.reads("notices", "The relay was lost")
            await asyncio.sleep(AWAY)
            with relay.started() as running:
                address = next(one for one in running.event("ready")["maddrs"] if "/ws" not in one)
                await tab.until("connection", since=before, connection="reserved")
                await tab.reads("notices", "Connected to the relay again")
                async with joined(address) as peer:

                    async def announced() -> bool:
                        return await peer.states(PREFIX, len(ALL), server) == [ServerState.ONLINE] * len(ALL)

                    await eventually(announced)
                    hidden = hidden_states(1, 5)
                    found = await (await peer.session(server)).step(hidden)
                    assert np.abs(found - await expected(small_model, hidden)).max() < 1e-3
                assert await tab.text("problem") == ""

    asyncio.run(main())

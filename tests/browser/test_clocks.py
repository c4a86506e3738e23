"""A tab whose clock is wrong serves as any other, and its owner is told."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser.clocks import open_wrong_tab
from browser.peers import ALL, PREFIX, expected, hidden_states, joined

from kwaainet.dht.record import Dictionary
from kwaainet.native.chromium import Browser
from kwaainet.node.config import NodeConfig
from kwaainet.swarm import blocks
from kwaainet.types import BlockRange, ServerState

HOUR = 3600.0


@pytest.mark.parametrize("ahead", [HOUR, -HOUR], ids=["fast", "slow"])
def test_an_hour_off(origin: dict[str, Any], small_model: Path, ahead: float) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser, joined(origin["tcp"]) as peer:
            tab = await open_wrong_tab(browser, origin["http"], ahead, backend="wasm")
            assert abs(await tab.page.evaluate("Date.now()") / 1000 - time.time() - ahead) < 60
            server = (await tab.contribute())["peer_id"]
            assert await peer.states(PREFIX, len(ALL), server) == [ServerState.ONLINE] * len(ALL)
            record = await peer.dht.get(blocks.uid(PREFIX, 0))
            assert isinstance(record, Dictionary)
            left = record.entries[server].expiration - time.time()
            slow = 60  # seconds; the tab's error is half of what the relay took to tell it the time
            expiration = NodeConfig(PREFIX, BlockRange(0, 1)).expiration
            assert 0 < left < expiration + slow < HOUR, "the swarm's time counts"
            session = await peer.session(server)
            hidden = hidden_states(1, 5)
            found = await session.step(hidden)
            assert np.abs(found - await expected(small_model, hidden)).max() < 1e-3
            assert f"60 min {'fast' if ahead > 0 else 'slow'}" in await tab.text("notices")
            await tab.stop()

    asyncio.run(main())

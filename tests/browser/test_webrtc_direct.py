"""A tab takes its slot over WebRTC-Direct, without a certificate of any authority, and serves through it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
from browser.peers import PREFIX, expected, hidden_states, joined
from browser.tabs import SOON, open_tab
from interop.running import started
from nightly.test_networks import RELAY_WITH

from kwaainet.native.chromium import Browser

SILENCE = "12"  # seconds, instead of 30, after which the relay lets go of a tab that is gone


def test_a_tab_reserves_and_serves_over_webrtc_direct(small_model: Path, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("0")
    command = [sys.executable, RELAY_WITH, clock, SILENCE, "-v", "--http", "127.0.0.1:0"]
    command += ["--model", small_model, "--prefix", PREFIX, "--state-dir", tmp_path / "state"]
    command += ["--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/udp/0/webrtc-direct"]

    async def main() -> None:
        with started(command, tmp_path, "relay") as running:
            origin = await asyncio.to_thread(running.event, "ready")
            tcp, direct = origin["maddrs"]
            assert "/webrtc-direct/certhash/uEi" in direct
            async with await Browser.launch() as browser, joined(tcp) as peer:
                tab = await open_tab(browser, origin["http"], backend="wasm")
                online = await tab.contribute()
                hidden = hidden_states(1, 3)
                session = await peer.session(online["peer_id"])
                wanted = await expected(small_model, hidden)
                np.testing.assert_allclose(await session.step(hidden), wanted, atol=2e-4)
                assert "/webrtc-direct" in running.err.read_text()
                await tab.page.close()
                lost = f"disconnected from {online['peer_id']} at /ip4/127.0.0.1/udp/"
                await asyncio.to_thread(running.printed, lost, SOON)

    asyncio.run(main())

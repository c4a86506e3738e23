"""What a tab does when its surroundings fail: no relay, a lost relay, another tab, a bad model."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser.fixed_relay import FixedRelay
from browser.peers import ALL, PREFIX, expected, hidden_states, joined
from browser.tabs import eventually, open_tab
from interop.running import free_port, relay

from kwaainet.native.chromium import Browser
from kwaainet.types import BlockRange, ServerState


@pytest.fixture
def fixed_relay(tmp_path: Path, small_model: Path) -> FixedRelay:
    return FixedRelay(tmp_path, small_model)


async def away_and_back(relay: FixedRelay, model: Path, seconds: float) -> None:
    """A tab loses its relay, which is started again ``seconds`` later: it returns, and its owner is told."""
    async with await Browser.launch() as browser:
        with relay.started() as running:
            running.event("ready")
            tab = await open_tab(browser, relay.url, backend="wasm")
            server = (await tab.contribute())["peer_id"]
            before = len(tab.events)
            running.process.kill()
            await tab.until("connection", since=before, connection="lost")
            assert await tab.text("relay") in ("lost, trying again…", "connecting…")
            await tab.reads("notices", "The relay was lost")
        await asyncio.sleep(seconds)
        with relay.started() as running:
            address = next(one for one in running.event("ready")["maddrs"] if "/ws" not in one)
            await tab.until("connection", since=before, connection="reserved")
            await tab.reads("relay", "connected")
            await tab.reads("notices", "Connected to the relay again after")
            async with joined(address) as peer:

                async def announced() -> bool:
                    return await peer.states(PREFIX, len(ALL), server) == [ServerState.ONLINE] * len(ALL)

                await eventually(announced)
                hidden = hidden_states(1, 5)
                found = await (await peer.session(server)).step(hidden)
                assert np.abs(found - await expected(model, hidden)).max() < 1e-3
            assert await tab.text("problem") == ""
            await tab.stop()


def test_a_tab_returns_to_a_restarted_relay(fixed_relay: FixedRelay, small_model: Path) -> None:
    asyncio.run(away_and_back(fixed_relay, small_model, 0.0))


def test_no_origin_is_said_and_can_be_tried_again(fixed_relay: FixedRelay) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            with fixed_relay.started() as running:
                running.event("ready")
                tab = await open_tab(browser, fixed_relay.url, backend="wasm")
                await tab.reads("preflight-summary", "This browser can")  # it knows what is offered
            await tab.click("contribute")
            error = await tab.until("error")
            assert error["message"] == f"{fixed_relay.url[:-1]} does not answer; is the relay running?"
            said = await tab.text("problem")
            assert said.startswith("The relay does not answer.")
            assert said.endswith(error["message"]), "its own words stand under the details"
            with fixed_relay.started() as running:
                running.event("ready")
                before = len(tab.events)
                await tab.contribute()
                assert await tab.text("problem") == ""
                assert tab.events[before]["event"] == "starting"

    asyncio.run(main())


def test_a_relay_that_cannot_be_dialled_is_named(small_model: Path, tmp_path: Path) -> None:
    address = f"/ip4/127.0.0.1/tcp/{free_port()}/ws"

    async def main(url: str) -> None:
        async with await Browser.launch() as browser:
            tab = await open_tab(browser, url, backend="wasm")
            await tab.click("contribute")
            error = await tab.until("error")
            assert "no relay could be reached" in error["message"]
            assert address in error["message"]

            async def no_worker() -> bool:
                return not tab.page.workers

            await eventually(no_worker)

    announced = ("--announce", "/ip4/127.0.0.1/tcp/1", "--announce", address)
    with relay(tmp_path, "--model", small_model, "--prefix", PREFIX, *announced) as ready:
        asyncio.run(main(ready["http"]))


def test_a_second_tab_of_the_same_browser_does_not_fight_the_first(origin: dict[str, Any]) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser, joined(origin["tcp"]) as peer:
            first = await open_tab(browser, origin["http"], backend="wasm")
            server = (await first.contribute())["peer_id"]
            second = await open_tab(browser, origin["http"], backend="wasm")
            await second.click("contribute")
            await second.until("elsewhere")
            assert await peer.states(PREFIX, len(ALL), server) == [ServerState.ONLINE] * len(ALL)
            await second.click("stop")
            await second.until("offline")
            await first.stop()
            before = len(second.events)
            await second.click("contribute")
            assert (await second.until("online", since=before))["peer_id"] == server

    asyncio.run(main())


@pytest.mark.parametrize(
    ("blocks", "message"), [("0:99", "the model has 0:3"), ("two", "two"), ("2:1", "2:1")]
)
def test_blocks_that_are_not_there_are_refused(origin: dict[str, Any], blocks: str, message: str) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            tab = await open_tab(browser, origin["http"], backend="wasm", blocks=blocks)
            await tab.click("contribute")
            assert message in (await tab.until("error"))["message"]

    asyncio.run(main())


def test_a_damaged_model_file_is_not_served(small_model: Path, tmp_path: Path) -> None:
    """The relay hashed a sound file; what the tab is sent is not it any more."""
    damaged = tmp_path / "model"
    shutil.copytree(small_model, damaged)

    async def main(origin: dict[str, Any]) -> None:
        with (damaged / "model.safetensors").open("r+b") as file:
            file.seek(-1_000_000, 2)
            file.write(bytes(1000))
        async with await Browser.launch() as browser, joined(origin["tcp"]) as peer:
            tab = await open_tab(browser, origin["http"], backend="wasm")
            await tab.click("contribute")
            error = await tab.until("error")
            assert "do not have the sha256" in error["message"]
            states = await peer.states(PREFIX, len(ALL), error["peer_id"])
            assert states == [ServerState.OFFLINE] * len(ALL)

    with relay(tmp_path, "--model", damaged, "--prefix", PREFIX) as ready:
        asyncio.run(main(ready))


def test_tabs_that_may_choose_share_the_blocks_and_push_steps_to_each_other(
    origin: dict[str, Any], small_model: Path
) -> None:
    """The second one reads through the relay what the first has taken."""
    spans = BlockRange(0, len(ALL) - 1), BlockRange(len(ALL) - 1, len(ALL))

    async def main() -> None:
        async with (
            await Browser.launch() as one,
            await Browser.launch() as other,
            joined(origin["tcp"]) as peer,
        ):
            tabs, sessions, servers = [], [], []
            for browser, span in zip((one, other), spans, strict=True):
                tab = await open_tab(browser, origin["http"], backend="wasm", blocks=f"auto:{len(span)}")
                online = await tab.contribute()
                assert online["blocks"] == [span.start, span.end]
                tabs.append(tab)
                servers.append(online["peer_id"])
                sessions.append(await peer.session(online["peer_id"], span=span))
                await sessions[-1].step(hidden_states(1, 0))
            hidden = hidden_states(1, 4)
            onward = (servers[1], sessions[1].session_id, spans[1].start, spans[1].end)
            middle = await sessions[0].step(hidden, next_servers=[onward])
            pushed = await sessions[1].answer()  # we never sent it the step
            assert np.abs(middle - await expected(small_model, hidden, spans[0])).max() < 1e-3
            assert np.abs(pushed - await expected(small_model, hidden)).max() < 1e-3
            await asyncio.gather(*(tab.stop() for tab in tabs))

    asyncio.run(main())

"""Blocks on WebGPU in a real Chromium, on SwiftShader where there is no graphics card."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser.peers import ALL, PREFIX, Peer, expected, hidden_states, joined
from browser.tabs import PATIENCE, Tab, eventually, open_tab

from kwaainet.errors import LocalError, RpcError
from kwaainet.native import chromium
from kwaainet.native.chromium import Browser
from kwaainet.types import ServerState

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Stage:
    """A tab that serves the small model on webgpu, a client, and the loop they live in."""

    runner: asyncio.Runner
    browser: Browser
    tab: Tab
    peer: Peer
    online: dict[str, Any]

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.runner.run(work)


@pytest.fixture(scope="module")
def stage(origin: dict[str, Any]) -> Iterator[Stage]:
    stack = contextlib.AsyncExitStack()
    with asyncio.Runner() as runner:

        async def begin() -> Stage:
            browser = await stack.enter_async_context(await Browser.launch())
            peer = await stack.enter_async_context(joined(origin["tcp"]))
            tab = await open_tab(browser, origin["http"], backend="webgpu")
            return Stage(runner, browser, tab, peer, await tab.contribute())

        try:
            yield runner.run(begin())
        finally:  # also of a tab that does not come online: its browser must not outlive it
            runner.run(stack.aclose())


def close_to(found: np.ndarray, wanted: np.ndarray) -> bool:
    return found.shape == wanted.shape and float(np.abs(found - wanted).max()) < TOLERANCE


def test_the_page_says_what_computes(stage: Stage) -> None:
    async def main() -> None:
        assert stage.online["backend"] == "webgpu"
        assert await stage.tab.text("backend") == "the graphics card (WebGPU)"
        assert await stage.tab.text("blocks") == f"{ALL.start} to {ALL.end - 1}"
        assert await stage.tab.text("peer") == stage.online["peer_id"]

    stage.run(main())


@pytest.mark.parametrize("prompt", [1, 31, 100])  # from 32 new positions on the device takes another way
def test_a_prompt_then_single_tokens(stage: Stage, small_model: Path, prompt: int) -> None:
    async def main() -> None:
        hidden = hidden_states(1, prompt + 3)
        wanted = await expected(small_model, hidden)
        session = await stage.peer.session(stage.online["peer_id"])
        assert close_to(await session.step(hidden[:, :prompt]), wanted[:, :prompt])
        for at in range(prompt, prompt + 3):
            assert close_to(await session.step(hidden[:, at : at + 1]), wanted[:, at : at + 1])
        await session.stream.close()

    stage.run(main())


def test_a_batch_reordered_and_rolled_back(stage: Stage, small_model: Path) -> None:
    async def main() -> None:
        hidden, other = hidden_states(3, 40), hidden_states(3, 4, seed=2)
        session = await stage.peer.session(stage.online["peer_id"])
        assert close_to(await session.step(hidden), await expected(small_model, hidden))
        rows = [2, 0, 2]
        moved = np.concatenate([hidden[rows], other[:, :2]], axis=1)
        found = await session.step(other[:, :2], rows=rows)
        assert close_to(found, (await expected(small_model, moved))[:, 40:])
        back = np.concatenate([moved[:, :35], other], axis=1)
        found = await session.step(other, start_from_position=35)
        assert close_to(found, (await expected(small_model, back))[:, 35:])
        await session.stream.close()

    stage.run(main())


def test_a_lost_device_is_built_anew(stage: Stage, small_model: Path) -> None:
    """The session on it is told so; the tab joins again and computes right."""

    async def main() -> None:
        hidden, server = hidden_states(1, 33), stage.online["peer_id"]
        before = len(stage.tab.events)
        session = await stage.peer.session(server)
        await session.step(hidden)
        step = asyncio.create_task(session.step(hidden))
        with contextlib.suppress(LocalError):  # the process may be gone before it can answer
            await stage.browser.command("Browser.crashGpuProcess")

        async def steps() -> None:
            await step
            while True:  # the crash may come too late for the first
                await session.step(hidden, start_from_position=0)

        with pytest.raises(RpcError, match="the device this session was computed on was lost"):
            await asyncio.wait_for(steps(), PATIENCE)
        await stage.tab.until("joining", since=before)
        again = await stage.tab.until("online", since=before)
        assert (again["backend"], again["peer_id"]) == ("webgpu", server)
        await stage.tab.reads("notices", "The engine was lost and built anew")
        session = await stage.peer.session(server)
        assert close_to(await session.step(hidden), await expected(small_model, hidden))
        await session.stream.close()

        async def announced() -> bool:
            states = await stage.peer.states(PREFIX, len(ALL), server)
            return states == [ServerState.ONLINE] * len(ALL)

        await eventually(announced)

    stage.run(main())


def test_without_webgpu_the_processor_is_taken_unless_webgpu_was_asked_for(
    origin: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = tuple(flag for flag in chromium.FLAGS if flag != "--enable-unsafe-webgpu")
    monkeypatch.setattr(chromium, "FLAGS", flags)

    async def main() -> None:
        async with await Browser.launch() as browser:
            tab = await open_tab(browser, origin["http"], backend="webgpu")
            await tab.reads("preflight-summary", "cannot contribute")
            assert await tab.page.evaluate("document.querySelector('#contribute').disabled")
            await tab.page.evaluate("document.querySelector('#contribute').disabled = false")
            await tab.click("contribute")  # as who is quicker than the look at the graphics adapter
            error = await tab.until("error")
            assert error["message"] == "WebGPU found no graphics adapter; wasm would use the processor"
            assert "switch on hardware acceleration" in await tab.text("problem")
            assert await tab.page.evaluate("indexedDB.databases()") == [], "a refusal must store nothing"
            await tab.page.close()

            tab = await open_tab(browser, origin["http"])
            await tab.reads("preflight-summary", "processor (WASM): WebGPU found no graphics adapter")
            await tab.click("preflight-summary")
            await tab.reads("checks", "(WebGPU): no. WebGPU found no graphics adapter")
            assert (await tab.contribute())["backend"] == "wasm"
            assert await tab.text("backend") == "the processor (WASM)"

    asyncio.run(main())


def test_an_emulated_graphics_card_is_not_chosen_by_itself(origin: dict[str, Any]) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            tab = await open_tab(browser, origin["http"])
            await tab.click("preflight-summary")
            await tab.reads("checks", "emulated in software")
            assert (await tab.contribute())["backend"] == "wasm"

    asyncio.run(main())

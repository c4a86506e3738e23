"""However a tab goes away, its callers hear of it at once and the swarm soon knows."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser.peers import ALL, PREFIX, Peer, Session, expected, hidden_states, joined
from browser.tabs import PATIENCE, SOON, Tab, eventually, open_tab

from kwaainet.errors import RpcError, StreamReset
from kwaainet.native.chromium import Browser
from kwaainet.types import ServerState

Leave = Callable[[Tab], Awaitable[None]]

# In the workers: the weights do not come, so that the start lasts until it is stopped.
WITHOUT_WEIGHTS = """
(() => {
  const { fetch } = globalThis
  const never = new Promise(() => {})
  globalThis.fetch = async (...words) => await (/[.]safetensors$/.test(words[0]) ? never : fetch(...words))
})()
"""


@dataclass(frozen=True)
class Stage:
    """A relay's page in one browser profile, a client, and the loop they live in."""

    runner: asyncio.Runner
    browser: Browser
    peer: Peer
    url: str

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.runner.run(work)

    async def online_tab(self) -> tuple[Tab, str]:
        """A tab that serves the small model, and its peer id."""
        tab = await open_tab(self.browser, self.url, backend="wasm")
        return tab, (await tab.contribute())["peer_id"]

    async def is_gone(self, server: str) -> None:
        """Wait until the DHT says of every block that ``server`` has left."""

        async def gone() -> bool:
            states = await self.peer.states(PREFIX, len(ALL), server)
            return states == [ServerState.OFFLINE] * len(ALL)

        await eventually(gone)


@pytest.fixture(scope="module")
def stage(origin: dict[str, Any]) -> Iterator[Stage]:
    async def enter(stack: AsyncExitStack) -> tuple[Browser, Peer]:
        browser = await stack.enter_async_context(await Browser.launch())
        return browser, await stack.enter_async_context(joined(origin["tcp"]))

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            yield Stage(runner, *runner.run(enter(stack)), origin["http"])
        finally:
            runner.run(stack.aclose())


async def keep_busy(session: Session) -> asyncio.Task[None]:
    """Step without a pause, from the start of the cache each time; the task ends only by an error."""
    stepped = asyncio.Event()

    async def work() -> None:
        hidden = hidden_states(1, 64)
        while True:
            await session.step(hidden, start_from_position=0)
            stepped.set()

    task = asyncio.create_task(work())
    started = asyncio.create_task(stepped.wait())
    await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
    assert stepped.is_set(), task
    return task


async def close(tab: Tab) -> None:
    await tab.page.close()


async def reload(tab: Tab) -> None:
    await tab.page.reload()


async def navigate(tab: Tab) -> None:
    await tab.page.goto("about:blank")


async def serves(stage: Stage, server: str, model: Path) -> None:
    """A new session with ``server`` computes what it should."""
    hidden = hidden_states(1, 5)
    session = await stage.peer.session(server)
    found = await session.step(hidden)
    assert np.abs(found - await expected(model, hidden)).max() < 1e-3
    await session.stream.close()


@pytest.mark.parametrize("leave", [close, navigate, reload], ids=lambda leave: leave.__name__)
def test_a_caller_is_told_when_the_tab_goes(stage: Stage, small_model: Path, leave: Leave) -> None:
    async def main() -> None:
        tab, server = await stage.online_tab()
        task = await keep_busy(await stage.peer.session(server))
        await leave(tab)
        with pytest.raises(RpcError, match="the tab that served this was closed"):
            await asyncio.wait_for(task, SOON)
        await stage.is_gone(server)
        if leave is reload:
            assert (await tab.contribute())["peer_id"] == server
            await serves(stage, server, small_model)
        await tab.page.close()

    stage.run(main())


def test_stop_leaves_in_good_order(stage: Stage) -> None:
    async def main() -> None:
        tab, server = await stage.online_tab()
        task = await keep_busy(await stage.peer.session(server))
        await tab.stop()
        states = await stage.peer.states(PREFIX, len(ALL), server)
        assert states == [ServerState.OFFLINE] * len(ALL), "said before the page says that it has left"
        with pytest.raises(RpcError, match="leaving the swarm"):
            await asyncio.wait_for(task, SOON)
        assert await tab.text("state") == "Not contributing."

        async def no_worker() -> bool:
            return not tab.page.workers

        await eventually(no_worker)
        assert (await tab.contribute())["peer_id"] == server, "the same button starts it again"
        await tab.page.close()

    stage.run(main())


def test_stop_ends_a_start_under_way(stage: Stage) -> None:
    async def main() -> None:
        tab = await open_tab(stage.browser, stage.url, backend="wasm")
        tab.page.run_first_in_workers(WITHOUT_WEIGHTS)
        await tab.click("contribute")
        joining = await tab.until("joining")
        await tab.stop()
        assert all(event["event"] != "online" for event in tab.events)
        await stage.is_gone(joining["peer_id"])
        await tab.page.close()

    stage.run(main())


def test_the_relay_takes_a_killed_tab_down(origin: dict[str, Any], stage: Stage) -> None:
    """Nobody says goodbye: the broken connection does."""

    async def main() -> None:
        async with await Browser.launch() as browser:
            tab = await open_tab(browser, origin["http"], backend="wasm")
            server = (await tab.contribute())["peer_id"]
            task = await keep_busy(await stage.peer.session(server))
            os.killpg(browser.process_id, signal.SIGKILL)
            with pytest.raises((StreamReset, RpcError)):
                await asyncio.wait_for(task, SOON)
            await stage.is_gone(server)

    stage.run(main())


def test_finish_serves_on_until_stop_is_clicked(stage: Stage, small_model: Path) -> None:
    async def main() -> None:
        tab = await open_tab(stage.browser, stage.url, backend="wasm", drain="900")
        server = (await tab.contribute())["peer_id"]
        task = await keep_busy(await stage.peer.session(server))
        await tab.click("finish")
        await tab.until("draining")
        await stage.is_gone(server)
        await tab.reads("state", "Finishing: 1 session, at most")
        await serves(stage, server, small_model)  # one who has not heard of it
        assert not task.done()
        await tab.stop()
        with pytest.raises(RpcError, match="leaving the swarm"):
            await asyncio.wait_for(task, SOON)
        await tab.page.close()

    stage.run(main())

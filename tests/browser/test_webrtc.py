"""Tabs reach each other by WebRTC where that can be done, and through the relay's circuit where not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.callers import Caller, calling_relay
from browser.peers import PREFIX
from browser.tabs import eventually, open_tab

from kwaainet.native.chromium import Browser

Run = Callable[[Callable[[Browser, dict[str, Any]], Coroutine[Any, Any, None]]], None]


@pytest.fixture(scope="module")
def run(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a test's main with a browser and the relay's ready event."""
    folder = tmp_path_factory.mktemp("relay")
    with (
        calling_relay(folder, "--model", small_model, "--prefix", PREFIX) as ready,
        asyncio.Runner() as runner,
    ):
        browser = runner.run(Browser.launch())
        try:
            yield lambda main: runner.run(main(browser, ready))
        finally:
            runner.run(browser.close())


def test_two_tabs_connect_directly(run: Run) -> None:
    async def main(browser: Browser, ready: dict[str, Any]) -> None:
        caller, callee = [await Caller.begin(browser, ready) for _ in range(2)]
        await caller.call(callee.peer)
        await caller.reached_by(callee.peer, "webrtc")
        await callee.reached_by(caller.peer, "webrtc")
        stream = await caller.open(callee.peer)  # where it begins it stays
        assert len(await caller.echo(stream, 10_000, 20)) == 20
        await callee.call(caller.peer)
        assert len(await caller.echo(stream, 1_000_000, 3)) == 3, "many messages of the channel each"

        async def counted() -> bool:
            found = await caller.connection(callee.peer)
            return found is not None and found["bytes_in"] > 3_200_000 and "rtt_ms" in found

        await eventually(counted)

    run(main)


def test_a_contributing_tab_is_reached_directly_and_says_so(run: Run) -> None:
    async def main(browser: Browser, ready: dict[str, Any]) -> None:
        tab = await open_tab(browser, ready["http"], backend="wasm")
        server = (await tab.contribute())["peer_id"]
        caller = await Caller.begin(browser, ready)
        stream = await caller.open(server, "TransformerConnectionHandler.rpc_inference")
        await caller.reached_by(server, "webrtc")

        async def says_so() -> bool:
            reports = [event["peers"] for event in tab.events if event["event"] == "peers"]
            kinds = {one["peer"]: one["kind"] for one in reports[-1]}
            return kinds.get(caller.peer) == "webrtc" and next(iter(kinds.values())) == "relay"

        await eventually(says_so)
        await tab.reads("peers", "direct (WebRTC)")
        await tab.page.close()
        assert "the tab that served this was closed" in await caller.ending(stream)

    run(main)


def test_who_dial_each_other_at_once_agree_on_a_connection(run: Run) -> None:
    async def main(browser: Browser, ready: dict[str, Any]) -> None:
        one, other = [await Caller.begin(browser, ready) for _ in range(2)]
        streams = await asyncio.gather(one.open(other.peer), other.open(one.peer))
        await asyncio.gather(one.echo(streams[0], 5000, 20), other.echo(streams[1], 5000, 20))
        await asyncio.gather(one.reached_by(other.peer, "webrtc"), other.reached_by(one.peer, "webrtc"))
        calls = [one.call(other.peer) for _ in range(10)] + [other.call(one.peer) for _ in range(10)]
        assert len(await asyncio.gather(*calls)) == 20

    run(main)


def test_a_lost_direct_connection_ends_its_streams_and_the_circuit_takes_over(run: Run) -> None:
    async def main(browser: Browser, ready: dict[str, Any]) -> None:
        caller, callee = [await Caller.begin(browser, ready) for _ in range(2)]
        await caller.call(callee.peer)
        await caller.reached_by(callee.peer, "webrtc")
        stream = await caller.open(callee.peer)
        await caller.echo(stream)
        await callee.cut()
        assert "StreamReset" in await caller.ending(stream)
        await caller.call(callee.peer)
        await caller.reached_by(callee.peer, "circuit")
        await callee.call(caller.peer)  # it finds out only now
        await caller.echo(await caller.open(callee.peer))

    run(main)


def test_channels_that_cannot_leave_the_page_are_forwarded(run: Run) -> None:
    async def main(browser: Browser, ready: dict[str, Any]) -> None:
        caller, callee = await Caller.begin(browser, ready, forward=True), await Caller.begin(browser, ready)
        for one, other in ((caller, callee), (callee, caller)):
            await one.call(other.peer)
            await one.reached_by(other.peer, "webrtc")
            stream = await one.open(other.peer)
            assert len(await one.echo(stream, 10_000, 20)) == 20
            assert len(await one.echo(stream, 2_000_000, 2)) == 2, "more than a channel holds at once"

    run(main)


def test_without_webrtc_the_circuit_carries_everything(run: Run) -> None:
    async def main(browser: Browser, ready: dict[str, Any]) -> None:
        caller, callee = await Caller.begin(browser, ready, direct=False), await Caller.begin(browser, ready)
        stream = await caller.open(callee.peer)
        await caller.echo(stream, 10_000, 5)
        await caller.reached_by(callee.peer, "circuit")
        await callee.reached_by(caller.peer, "circuit")
        await callee.call(caller.peer)

    run(main)

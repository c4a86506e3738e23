"""A whole small language model on WebAssembly in one tab, answering our own client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from browser.peers import joined
from browser.tabs import Tab, eventually, open_tab
from interop.running import ROOT, relay

from kwaainet.native.chromium import Browser
from kwaainet.native.cli.generate import Completion, complete, joined_completer
from kwaainet.native.model import Model, open_model
from kwaainet.types import ServerState

GGUF = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PREFIX = "SmolLM2-135M-Instruct-hf"
BLOCKS = 30
MOST_BYTES_OF_A_RETURN = 2_000_000  # of 98 MB of weights and some 30 of programs


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A relay that offers SmolLM2-135M; its ready event."""
    with relay(tmp_path_factory.mktemp("smol"), "--model", GGUF, "--prefix", PREFIX) as ready:
        yield ready


def test_it_answers_and_a_reload_keeps_identity_and_weights(smol: dict[str, Any], tmp_path: Path) -> None:
    model = open_model(GGUF, name=PREFIX)

    async def main() -> None:
        async with await Browser.launch(profile=tmp_path / "profile") as browser, joined(smol["tcp"]) as peer:
            tab = await open_tab(browser, smol["http"], backend="wasm", threads="2")
            assert await tab.page.evaluate("crossOriginIsolated"), "or there are no threads"
            online = await tab.contribute()
            assert (online["backend"], online["blocks"]) == ("wasm", [0, BLOCKS])
            assert await tab.until("threads", threads=2)
            assert threads_of(tab) == 1, "the node worker is the other one"
            assert weights_fetched(tab), "the first visit fetches them"
            assert kept(tab) == 0
            assert "Paris" in await answer(smol, model)

            await tab.page.reload()
            tab.page.requests.clear()
            tab.events.clear()
            before = tab.page.bytes_received
            again = await tab.contribute()
            assert again["peer_id"] == online["peer_id"]
            assert weights_fetched(tab) == []
            assert kept(tab) > 60e6, "the weights, and what the browser kept of the runtime"
            assert tab.page.bytes_received - before < MOST_BYTES_OF_A_RETURN
            assert "Paris" in await answer(smol, model)
            states = await peer.states(PREFIX, BLOCKS, again["peer_id"])
            assert states == [ServerState.ONLINE] * BLOCKS

            assert threads_of(tab) == 1
            await tab.stop()
            await eventually(partial(no_threads_of, tab))
            states = await peer.states(PREFIX, BLOCKS, again["peer_id"])
            assert states == [ServerState.OFFLINE] * BLOCKS

    asyncio.run(main())


def threads_of(tab: Tab) -> int:
    """The engine's helpers that run."""
    return sum("/thread.js" in url for url in tab.page.workers.values())


async def no_threads_of(tab: Tab) -> bool:
    return threads_of(tab) == 0


def weights_fetched(tab: Tab) -> list[str]:
    """Requests for the model's file, of the page and of its workers."""
    return [url for url in tab.page.requests if url.endswith(GGUF.name)]


def kept(tab: Tab) -> int:
    """How many bytes of what it loaded the tab said were there before."""
    return [int(event["cached"]) for event in tab.events if event["event"] == "progress"][-1]


async def answer(smol: dict[str, Any], model: Model) -> str:
    """What the swarm says to a question, greedily, through a client of its own."""
    pieces: list[str] = []
    async with joined_completer([smol["tcp"]], model) as completer:
        await complete(completer, Completion("What is the capital of France?", 12), pieces.append)
    return "".join(pieces)

"""Several models on one page: which to serve and to talk to, and a picture of the whole swarm."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from browser.page_states import BIG, BIG_BLOCKS, OTHER, SPANS, open_page, populate, two_models
from browser.peers import ALL, PREFIX, joined
from browser.tabs import eventually
from browser.talking import ChatPage

from kwaainet.native.chromium import Browser
from kwaainet.types import ServerState

CHOOSE = "document.querySelector('input[name=model][value={}]').click()"
TALK_TO = (
    "void Object.assign(document.getElementById('chat-model'), {{ value: '{}' }})"
    ".dispatchEvent(new Event('change'))"
)
BARS = """
[...document.querySelectorAll('#coverage .model-map')].map(whole => [
  whole.querySelector('.map').ariaLabel,
  whole.querySelectorAll('.map .bar').length,
  whole.querySelectorAll('.column.gap').length
])
"""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A relay with two models that can be talked to."""
    folder: Path = tmp_path_factory.mktemp("models")
    with two_models(folder) as ready:
        yield ready


def test_the_contributor_chooses_a_model_and_may_change_it_and_the_chat_chooses_too(
    origin: dict[str, Any],
) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            browser = await stack.enter_async_context(await Browser.launch())
            peer = await stack.enter_async_context(joined(origin["tcp"]))
            tab = await open_page(browser, origin["http"], max_tokens="8")
            await tab.reads("models", f"{OTHER}3 blocks, at most")
            await tab.page.evaluate(CHOOSE.format(OTHER))
            await tab.reads("offer", f"3 blocks of {OTHER}")
            server = (await tab.contribute())["peer_id"]
            assert await tab.text("switch") == ""

            async def serves(model: str, other: str) -> bool:
                here, there = [set(await peer.states(one, len(ALL), server)) for one in (model, other)]
                return here == {ServerState.ONLINE} and ServerState.ONLINE not in there

            await eventually(lambda: serves(OTHER, PREFIX))
            chat = await ChatPage.of(tab)
            await tab.page.evaluate(TALK_TO.format(OTHER))
            answers = [await chat.ask("What is it?")]
            since = len(tab.events)
            await tab.page.evaluate(CHOOSE.format(PREFIX))
            await tab.reads("switch", f"Serve {PREFIX} instead")
            await tab.click("switch")
            await tab.until("online", since=since)
            await eventually(lambda: serves(PREFIX, OTHER))
            await tab.page.evaluate(TALK_TO.format(PREFIX))
            assert await tab.text("chat-log") == "", "another model is another conversation"
            answers.append(await chat.ask("What is it?"))
            assert len(set(answers)) == 2
            assert [hop["peer"] for hop in chat.chains()[-1]["hops"]] == [server]
            await tab.page.reload()
            await tab.reads("offer", f"3 blocks of {PREFIX}")

    asyncio.run(main())


def test_the_picture_is_of_the_whole_swarm(origin: dict[str, Any]) -> None:
    """What others serve and this relay never announced stands on it, with its gaps."""

    async def main() -> None:
        async with await Browser.launch() as browser, joined(origin["tcp"]) as peer:
            await populate(peer)
            tab = await open_page(browser, origin["http"])
            said = f"{BIG}: {len(SPANS) - 1} servers, nobody serves blocks 20–23"
            found: dict[str, Any] = {}

            async def drawn() -> bool:  # who has left is on it still, until the relay reads the DHT anew
                bars = await tab.page.evaluate(BARS)
                found.update({label.split(":")[0]: [label, *rest] for label, *rest in bars})
                return BIG in found and found[PREFIX][1:] == [0, len(ALL)]

            await eventually(drawn)
            assert found[BIG] == [said, len(SPANS), 4]
            assert "nobody serves blocks 20–23." in await tab.text("coverage")
            assert "The relay answers in" in await tab.text("swarm-health")
            columns = f"document.querySelectorAll('[aria-label^={BIG}] .column').length"
            assert await tab.page.evaluate(columns) == BIG_BLOCKS
            await tab.contribute()
            await tab.reads("coverage", "A request could go to this tab for blocks 0 to 2.")

    asyncio.run(main())

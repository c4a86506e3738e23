"""A page talks to the model that tabs serve, with a client of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser.tabs import Tab, open_tab
from browser.talking import ChatPage, generated, write_talking_model
from interop.running import relay

from kwaainet.native.chromium import Browser

PREFIX = "talking-llama"
TOKENS = 24
QUESTION = "What is it?"


@dataclass(frozen=True)
class Stage:
    """A relay that offers the talking model."""

    model: Path
    ready: dict[str, Any]

    async def page(self, browser: Browser, **query: str) -> Tab:
        query = {"backend": "wasm", "max_tokens": str(TOKENS), **query}
        return await open_tab(browser, self.ready["http"], **query)

    async def expected(self, prompt: str = QUESTION) -> str:
        return await generated(self.model, PREFIX, self.ready["tcp"], prompt, TOKENS)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    model = write_talking_model(tmp_path_factory.mktemp("model") / "talking")
    with relay(tmp_path_factory.mktemp("relay"), "--model", model, "--prefix", PREFIX) as ready:
        yield Stage(model, ready)


def test_a_page_chats_through_another_tab_and_through_itself(stage: Stage) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            server = await stage.page(browser)
            peer = (await server.contribute())["peer_id"]
            expected = await stage.expected()
            assert len(expected) == TOKENS

            other = await stage.page(browser)
            chat = await ChatPage.of(other)
            assert other.page.workers == {}, "nothing loads before the first message"
            assert await chat.ask(QUESTION) == expected
            assert [hop["peer"] for hop in chat.chains()[-1]["hops"]] == [peer]
            assert peer[-8:] in await chat.text("chat-peers")
            assert "tokens a second" in await chat.text("chat-status")
            assert await chat.ask("And that?") != expected, "the conversation so far counts"
            await other.page.close()

            itself = await ChatPage.of(server)
            assert await itself.ask(QUESTION) == expected, "a page may chat and serve at once"

    asyncio.run(main())

"""A page talks to the model that tabs serve, with a client of its own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser.tabs import Tab, eventually, open_tab
from browser.talking import ChatPage, generated, write_talking_model
from interop.running import relay

from kwaainet.native.chromium import Browser

PREFIX = "talking-llama"
TOKENS = 24
MANY = 300  # enough that something can happen in the midst of an answer
SOME = 12  # pieces of one
QUESTION = "What is it?"
# By the page itself: a client waits 10 s for who has paused, a test may take longer.
PAUSE_FOR_A_MOMENT = """
(async () => {
  const [button, state] = ['pause', 'state'].map(id => document.getElementById(id))
  button.click()
  while (!state.textContent.includes('Paused')) await new Promise(done => setTimeout(done, 10))
  button.click()
})()
"""


@dataclass(frozen=True)
class Origin:
    """A relay that offers the talking model."""

    model: Path
    ready: dict[str, Any]

    async def page(self, browser: Browser, **query: str) -> Tab:
        query = {"backend": "wasm", "max_tokens": str(TOKENS), **query}
        return await open_tab(browser, self.ready["http"], **query)

    async def expected(self, tokens: int = TOKENS) -> str:
        """What ``kwaainet generate`` answers to the question through the same swarm."""
        return await generated(self.model, PREFIX, self.ready["tcp"], QUESTION, tokens)


@dataclass(frozen=True)
class Scene:
    """A tab that serves the model, a page that may chat, and the loop they live in."""

    runner: asyncio.Runner
    origin: Origin
    server: Tab
    peer: str
    page: Tab
    chat: ChatPage

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.runner.run(work)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    model = write_talking_model(tmp_path_factory.mktemp("model") / "talking")
    with relay(tmp_path_factory.mktemp("relay"), "--model", model, "--prefix", PREFIX) as ready:
        yield Origin(model, ready)


@pytest.fixture(scope="module")
def scene(origin: Origin) -> Iterator[Scene]:
    async def enter(stack: AsyncExitStack) -> tuple[Tab, str, Tab, ChatPage]:
        browser = await stack.enter_async_context(await Browser.launch())
        server, page = await origin.page(browser), await origin.page(browser, max_tokens=str(MANY))
        chat = await ChatPage.of(page)
        await chat.allow()
        return server, (await server.contribute())["peer_id"], page, chat

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            yield Scene(runner, origin, *runner.run(enter(stack)))
        finally:
            runner.run(stack.aclose())


async def begin(scene: Scene) -> None:
    """Ask anew, and wait until the answer is under way; it goes no further before it is allowed to."""
    await scene.page.click("chat-new")
    await scene.chat.allow(SOME)
    await scene.chat.send(QUESTION)

    async def begun() -> bool:
        return len(await scene.chat.last()) > 10

    await eventually(begun)


def test_a_page_chats_through_another_tab(scene: Scene) -> None:
    async def main() -> None:
        expected = await scene.origin.expected(MANY)
        assert len(expected) == MANY
        assert scene.page.page.workers == {}, "nothing loads before the first message"
        assert await scene.chat.ask(QUESTION) == expected
        assert [hop["peer"] for hop in scene.chat.chains()[-1]["hops"]] == [scene.peer]
        assert "tokens a second" in await scene.chat.text("chat-status")

        async def said_how() -> bool:
            peers = await scene.chat.text("chat-peers")
            return f"{scene.peer[-8:]}: blocks 0 to 2, direct (WebRTC)" in peers

        await eventually(said_how)

    scene.run(main())


def test_an_answer_can_be_stopped(scene: Scene) -> None:
    async def main() -> None:
        heard = len(scene.server.events)
        await begin(scene)
        await scene.page.click("chat-stop")
        assert len(await scene.chat.answer()) < MANY
        assert await scene.chat.text("chat-status") == "Stopped."
        await scene.chat.allow()
        await scene.server.until("serving", since=heard, sessions=0)

    scene.run(main())


def test_a_page_may_chat_and_serve_at_once(scene: Scene) -> None:
    async def main() -> None:
        chat = await ChatPage.of(scene.server)
        assert await chat.ask(QUESTION) == await scene.origin.expected()
        assert await chat.ask(QUESTION) != await scene.origin.expected(), "what was said before counts"

    scene.run(main())


async def breaks_off(scene: Scene, last: Tab, whole: str) -> None:
    """The server of an answer pauses for a moment, then leaves; once there is another, it is asked again."""
    await begin(scene)
    await last.page.evaluate(PAUSE_FOR_A_MOMENT)
    await scene.chat.allow(SOME)
    await scene.page.reads("chat-log", "Interrupted for a moment; continued on")
    await last.page.close()
    await scene.chat.allow()
    await scene.page.reads("chat-log", "The answer broke off here.")
    broken = await scene.chat.last()
    assert "Nobody who serves this model can be reached." in await scene.page.text("chat-problem")
    assert await scene.page.text("chat-status") == await scene.page.text("chat-peers") == ""
    async with await Browser.launch() as browser:
        await (await scene.origin.page(browser)).contribute()
        await scene.page.reads("chat-again", "Try again")
        await scene.page.click("chat-again")
        assert await scene.chat.answer() == whole, "asked as if nothing had come"
    assert whole.startswith(broken)
    assert broken in await scene.page.text("chat-log"), "what had come stays to be read"


def test_an_answer_goes_on_when_whoever_gives_it_is_gone(scene: Scene) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            another = await scene.origin.page(browser)
            peers = {scene.peer, (await another.contribute())["peer_id"]}
            whole = await scene.origin.expected(MANY)
            await begin(scene)
            [lost] = [hop["peer"] for hop in scene.chat.chains()[-1]["hops"]]
            left = another if lost == scene.peer else scene.server
            if left is another:
                await scene.server.page.close()
            else:
                os.killpg(browser.process_id, signal.SIGKILL)
            await scene.chat.allow()
            assert await scene.chat.answer() == whole, "not a token has changed"
            last = scene.chat.chains()[-1]
            assert last["lost"] == [lost]
            assert {hop["peer"] for hop in last["hops"]} == peers - {lost}
            assert f"{lost[-8:]} left; continued on" in await scene.chat.text("chat-log")
            await breaks_off(scene, left, whole)

    scene.run(main())

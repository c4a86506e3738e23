"""The client for a page's Python, over a port that a test answers as the SDK would."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from kwaainet.browser import AsyncClient
from kwaainet.browser.completions import error_of
from kwaainet.errors import InputError, LocalError, RemoteError, Unreachable, UsageError
from kwaainet.testing.clock import run

MESSAGES = [{"role": "user", "content": "Hi"}]


class Sdk:
    """The other end; ``sent`` is what it heard."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.closed = False
        self.refusals = 0
        self._receive: Callable[[Any], None] = lambda message: None

    async def open(self, relay: str, receive: Callable[[Any], None]) -> Sdk:
        assert relay == "https://relay.example"
        if self.refusals:
            self.refusals -= 1
            raise Unreachable("no relay")
        self._receive = receive
        return self

    def send(self, message: Any) -> None:
        self.sent.append(message)
        if message["type"] in ("load", "disconnect"):
            self.say("done", message["id"])

    def close(self) -> None:
        self.closed = True

    def say(self, kind: str, number: int, **fields: Any) -> None:
        self._receive({"type": kind, "id": number, **fields})

    def text(self, number: int, text: str) -> None:
        self.say("text", number, model="tiny", created=5, text=text)

    def end(self, number: int) -> None:
        counts = {"prompt_tokens": 3, "completion_tokens": 2}
        self.say("answered", number, model="tiny", created=5, reason="stop", **counts)


def with_client(test: Callable[[AsyncClient, Sdk], Awaitable[None]], **options: Any) -> Sdk:
    sdk = Sdk()

    async def main() -> None:
        async with AsyncClient("https://relay.example/", open_port=sdk.open, **options) as client:
            await test(client, sdk)

    run(main())
    return sdk


async def soon() -> None:
    await asyncio.sleep(0.01)


def test_nothing_is_opened_before_it_is_needed() -> None:
    async def test(client: AsyncClient, sdk: Sdk) -> None:
        await soon()

    assert with_client(test).sent == []


def test_chunks_come_as_they_are_said_and_a_whole_is_their_sum() -> None:
    async def test(client: AsyncClient, sdk: Sdk) -> None:
        options = {"max_tokens": 5, "temperature": 0.0, "stop": "x", "seed": None}
        stream = await client.chat.completions.create(messages=MESSAGES, stream=True, **options)
        assert sdk.sent == [
            {"type": "connect", "relay": "https://relay.example/", "webrtc": "auto", "model": "tiny"},
            {
                "type": "ask",
                "id": 1,
                "messages": MESSAGES,
                "max_tokens": 5,
                "temperature": 0.0,
                "stop": ["x"],
            },
        ]
        sdk.text(1, "a")
        assert (await anext(stream)).choices[0].delta.content == "a"
        sdk.end(1)
        last = await anext(stream)
        assert (last.choices[0].finish_reason, last.usage.total_tokens if last.usage else 0) == ("stop", 5)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        asking = asyncio.ensure_future(client.chat.completions.create(messages=MESSAGES))
        await soon()
        for word in ("b", "c"):
            sdk.text(2, word)
        sdk.end(2)
        whole = await asking
        assert (whole.choices[0].message.content, whole.id, whole.model) == ("bc", "chatcmpl-2", "tiny")

    sdk = with_client(test, model="tiny")
    assert [message["type"] for message in sdk.sent] == ["connect", "ask", "ask", "disconnect"]
    assert sdk.closed


def test_generate_gives_pieces_and_leaving_it_aborts() -> None:
    async def test(client: AsyncClient, sdk: Sdk) -> None:
        pieces = client.generate("Hi", max_tokens=9)
        waiting = asyncio.ensure_future(anext(pieces))
        await soon()
        assert sdk.sent[-1]["messages"] == MESSAGES
        sdk.text(1, "a")
        assert await waiting == "a"
        await pieces.aclose()
        assert sdk.sent[-1] == {"type": "abort", "id": 1}
        sdk.text(1, "late")

    with_client(test)


@pytest.mark.parametrize("how", ["close", "cancel", "forget"])
def test_what_nobody_wants_is_aborted_once(how: str) -> None:
    async def test(client: AsyncClient, sdk: Sdk) -> None:
        if how == "cancel":
            with suppress(TimeoutError):
                await asyncio.wait_for(client.chat.completions.create(messages=MESSAGES), 1)
        else:
            stream = await client.chat.completions.create(messages=MESSAGES, stream=True)
            if how == "close":
                await stream.close()
            del stream
        assert sdk.sent[2:] == [{"type": "abort", "id": 1}]

    with_client(test)


def test_problems_are_raised_where_they_belong() -> None:
    async def test(client: AsyncClient, sdk: Sdk) -> None:
        create = client.chat.completions.create
        first, second = (asyncio.ensure_future(create(messages=MESSAGES)) for _ in range(2))
        await soon()
        sdk.say("problem", 1, error="Unreachable", message="nobody serves block 3")
        sdk.text(2, "a")
        with pytest.raises(Unreachable, match="block 3"):
            await first
        sdk.say("problem", 0, error="Unreachable", message="the worker broke")
        with pytest.raises(Unreachable, match="broke"):
            await second
        with pytest.raises(InputError, match="logprobs"):
            await create(messages=MESSAGES, logprobs=True)  # type: ignore[call-overload]

    with_client(test)


def test_a_relay_that_was_not_there_may_be_there_later() -> None:
    told: list[Any] = []

    async def test(client: AsyncClient, sdk: Sdk) -> None:
        sdk.refusals = 1
        with pytest.raises(Unreachable):
            await client.start()
        await client.start()
        sdk._receive({"type": "loading", "stage": "python", "done": 3, "total": 9})

    with_client(test, on_progress=lambda *progress: told.append(progress))
    assert told == [("python", 3, 9)]


def test_a_closed_client_ends_its_answers_and_takes_no_more() -> None:
    async def test(client: AsyncClient, sdk: Sdk) -> None:
        asking = asyncio.ensure_future(client.chat.completions.create(messages=MESSAGES))
        await soon()
        await client.close()
        with pytest.raises(UsageError, match="closed"):
            await asking
        with pytest.raises(UsageError, match="closed"):
            await client.start()

    with_client(test)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("TypeError", InputError),
        ("LocalError", LocalError),
        ("Error", RemoteError),
        ("ApiError", RemoteError),
    ],
)
def test_errors_cross_by_name(name: str, kind: type[Exception]) -> None:
    error = error_of(name, "why")
    assert type(error) is kind
    assert str(error) == "why"

"""The endpoint over HTTP with a scripted swarm behind it, asked by the official client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI
from unit.native.scripted import ScriptedClient, scripted

from kwaainet.errors import CapacityError, RpcError, Unreachable
from kwaainet.native import openai as module
from kwaainet.native.completion import Completer
from kwaainet.native.http import serve
from kwaainet.native.model import Model
from kwaainet.native.openai import ApiOptions, OpenAiApi
from kwaainet.native.openai_access import Access
from kwaainet.native.openai_limits import ApiKeys, Limits

NAME = "tiny-hf"
HELLO: Any = [{"role": "user", "content": "hello"}]
CLOSED = ApiOptions(Access(ApiKeys(["first-key", "other-key"])), Limits(requests_per_minute=2))

Check = Callable[[AsyncOpenAI, str], Awaitable[None]]


def ask(completer: Completer, check: Check, options: ApiOptions | None = None) -> OpenAiApi:
    """Run ``check(client, address)`` against the endpoint; returns it as it is afterwards."""
    api = OpenAiApi([completer], options or ApiOptions())

    async def main() -> None:
        runner, address = await serve(api, "127.0.0.1", 0)
        try:
            async with AsyncOpenAI(base_url=f"{address}v1", api_key="first-key", max_retries=0) as client:
                await asyncio.wait_for(check(client, address), 30)
        finally:
            await runner.cleanup()

    asyncio.run(main())
    return api


def swarm(completer: Completer) -> ScriptedClient:
    return cast(ScriptedClient, completer.client)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def test_models(tiny_model: Model) -> None:
    async def check(client: AsyncOpenAI, address: str) -> None:
        assert [model.id async for model in client.models.list()] == [NAME]
        assert (await client.models.retrieve(NAME)).owned_by == "kwaainet"
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("gpt-4")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")

    ask(scripted(tiny_model), check)


def test_a_chat_at_once_and_in_a_stream(tiny_model: Model) -> None:
    async def check(client: AsyncOpenAI, address: str) -> None:
        chat = client.chat.completions
        whole = await chat.create(model=NAME, messages=HELLO, temperature=0)
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("größe 😀", "stop")
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, 12)
        stream = await chat.create(
            model=NAME, messages=HELLO, temperature=0, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "größe 😀"
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-2:] == [None, "stop"]
        assert chunks[-1].usage == whole.usage
        assert len({chunk.id for chunk in chunks}) == 1
        named = [whole.id, chunks[0].id]
        assert swarm(completer).request_ids == named, "servers log what the caller was told"
        assert whole._request_id == whole.id
        assert chunks[0].system_fingerprint == whole.system_fingerprint == "fp_print"

    completer = scripted(tiny_model, "größe 😀")
    api = ask(completer, check)
    assert swarm(completer).lengths == [64, 64]  # what the context leaves, less than the default
    assert api.status()["completion_tokens"] == 24
    assert (api.status()["by_status"], api.status()["in_flight"]) == ({"200": 2}, 0)


def test_texts_stops_and_several_choices(tiny_model: Model) -> None:
    async def check(client: AsyncOpenAI, address: str) -> None:
        texts = client.completions
        one = await texts.create(
            model=NAME, prompt=[5, 6, 7], max_tokens=20, temperature=0, stop=["\n\n", "#"]
        )
        assert (one.choices[0].text, one.choices[0].finish_reason) == ("one", "stop")
        assert one.usage is not None
        assert (one.usage.prompt_tokens, one.usage.completion_tokens) == (3, 5)
        two = await texts.create(model=NAME, prompt=["a", "b"], n=2, max_tokens=2, temperature=0)
        assert [(choice.index, choice.text, choice.finish_reason) for choice in two.choices] == [
            (index, "on", "length") for index in range(4)
        ]
        parts = ["", ""]
        async for chunk in await texts.create(model=NAME, prompt="a", n=2, temperature=0, stream=True):
            parts[chunk.choices[0].index] += chunk.choices[0].text
        assert parts == ["one\n\ntwo"] * 2

    ask(scripted(tiny_model, "one\n\ntwo"), check)


def test_a_stream_is_framed_as_clients_expect(tiny_model: Model) -> None:
    async def check(client: AsyncOpenAI, address: str) -> None:
        body = {"model": NAME, "prompt": "x", "stream": True, "temperature": 0}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{address}v1/completions", json=body) as got,
        ):
            assert got.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            lines = (await got.read()).decode().split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        assert all(line.startswith("data: ") and "\n" not in line for line in lines[:-1])
        assert json.loads(lines[0][6:])["choices"][0]["text"] == "h"

    ask(scripted(tiny_model, "hi"), check)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_sessions_with_it(tiny_model: Model, stream: bool) -> None:
    completer = scripted(tiny_model, "hello")
    behind = swarm(completer)

    async def check(client: AsyncOpenAI, address: str) -> None:
        behind.gate.clear()
        asked = client.chat.completions.create(model=NAME, messages=HELLO, n=2, stream=stream)
        asking = asyncio.ensure_future(asked)
        await until(lambda: behind.open == 2)
        if stream:
            await (await asking).close()
        else:
            asking.cancel()
        await until(lambda: behind.open == 0)

    api = ask(completer, check)
    assert api.status()["in_flight"] == 0
    assert api.status()["cancelled"] == 1


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Unreachable("no server is online for block 3 of 5"), 503, "no_server"),
        (RpcError("server x failed"), 503, "server_failed"),
        (CapacityError("full"), 503, "overloaded"),
        (ZeroDivisionError("secret"), 500, "internal_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_fails_before_the_first_token_has_its_status(
    tiny_model: Model, error: Exception, status: int, code: str, stream: bool
) -> None:
    completer = scripted(tiny_model)
    swarm(completer).errors[0] = error

    async def check(client: AsyncOpenAI, address: str) -> None:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model=NAME, messages=HELLO, stream=stream)
        assert (caught.value.status_code, caught.value.code) == (status, code)
        assert ("Retry-After" in caught.value.response.headers) == (status == 503)
        assert "secret" not in str(caught.value)

    ask(completer, check)
    assert swarm(completer).open == 0


def test_what_fails_on_the_way_is_told_in_the_stream(tiny_model: Model) -> None:
    completer = scripted(tiny_model, "abc")
    swarm(completer).errors[2] = Unreachable("no server is online for block 3 of 5")

    async def check(client: AsyncOpenAI, address: str) -> None:
        stream = await client.chat.completions.create(model=NAME, messages=HELLO, temperature=0, stream=True)
        with pytest.raises(openai.APIError, match="block 3"):
            [chunk async for chunk in stream]

    ask(completer, check)


def test_bad_requests_are_named(tiny_model: Model) -> None:
    async def check(client: AsyncOpenAI, address: str) -> None:
        chat = client.chat.completions
        with pytest.raises(openai.NotFoundError, match="gpt-4"):
            await chat.create(model="gpt-4", messages=HELLO)
        with pytest.raises(openai.BadRequestError) as caught:
            await chat.create(model=NAME, messages=HELLO, response_format={"type": "json_object"})
        assert caught.value.param == "response_format"
        for words, more in (("hello " * 40, 5), ("hello", 62)):
            with pytest.raises(openai.BadRequestError) as caught:
                await chat.create(model=NAME, messages=[{"role": "user", "content": words}], max_tokens=more)
            assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
        for prompt in ("", [9999]):
            with pytest.raises(openai.BadRequestError):
                await client.completions.create(model=NAME, prompt=prompt)

    ask(scripted(tiny_model), check)


def test_keys_and_rates(tiny_model: Model) -> None:
    async def check(client: AsyncOpenAI, address: str) -> None:
        chat, more = client.chat.completions, {"model": NAME, "messages": HELLO, "temperature": 0}
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.with_options(api_key="wrong-key").models.list()
        assert caught.value.code == "invalid_api_key"
        for _ in range(2):
            await chat.create(**more)
        with pytest.raises(openai.RateLimitError) as limited:
            await chat.create(**more)
        assert 1 <= int(limited.value.response.headers["Retry-After"]) <= 30
        await client.with_options(api_key="other-key").chat.completions.create(**more)

    api = ask(scripted(tiny_model), check, CLOSED)
    assert api.status()["by_status"] == {"200": 3, "401": 1, "429": 1}


def test_bodies_are_json_of_a_bounded_size_in_time(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(client: AsyncOpenAI, address: str) -> None:
        json_type = {"Content-Type": "application/json"}

        async def status(data: Any, headers: dict[str, str], path: str = "v1/completions") -> tuple[int, str]:
            async with session.post(address + path, data=data, headers=headers) as answer:
                return answer.status, (await answer.json())["error"]["message"]

        async def never() -> Any:
            yield b"{"
            await asyncio.sleep(10)

        async with aiohttp.ClientSession() as session:
            assert (await status(b"{}", {}))[0] == 415
            assert (await status(b"[", json_type))[0] == 400
            assert (await status(b" " * (module.MAX_BODY_BYTES + 1), json_type))[0] == 413
            assert (await status(b"xx", {**json_type, "Content-Encoding": "gzip"}))[0] == 415
            assert (await status(b"{}", json_type, "v1/embeddings"))[0] == 404
            monkeypatch.setattr(module, "BODY_SECONDS", 0.05)  # a MB takes longer on a loaded machine
            assert (await status(never(), json_type))[0] == 408
            async with session.get(address + "health") as health:
                assert await health.json() == {"status": "ok"}
            async with session.get(address + "status.json") as told:
                assert (await told.json())["openai"]["by_status"]["413"] == 1

    ask(scripted(tiny_model), check)


def test_pages_of_other_sites(tiny_model: Model) -> None:
    async def check(client: AsyncOpenAI, address: str) -> None:
        async with aiohttp.ClientSession(headers={"Origin": "https://a.example"}) as session:
            async with session.options(f"{address}v1/chat/completions") as asked:
                assert (asked.status, asked.headers["Access-Control-Allow-Methods"]) == (
                    204,
                    "GET, POST, OPTIONS",
                )
            body = {"model": NAME, "prompt": "x", "stream": True}
            for path, sent in (("v1/completions", body), ("v1/completions", {}), ("v1/nothing", {})):
                async with session.post(address + path, json=sent) as answer:
                    assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"

    ask(scripted(tiny_model), check, ApiOptions(Access(origins=["https://a.example"])))


def test_who_does_not_read_is_let_go(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.05)
    monkeypatch.setattr(module, "event", lambda value: b"x" * (1 << 20))
    completer = scripted(tiny_model, "hello" * 9)

    async def check(client: AsyncOpenAI, address: str) -> None:
        host, port = address.removeprefix("http://").strip("/").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        body = json.dumps({"model": NAME, "prompt": "x", "stream": True, "n": 4, "temperature": 0})
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        await until(lambda: swarm(completer).lengths != [] and swarm(completer).open == 0)
        writer.close()

    api = ask(completer, check)
    assert api.status()["cancelled"] == 1

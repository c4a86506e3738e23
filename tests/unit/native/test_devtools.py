"""The DevTools socket against a scripted browser on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import WSMsgType, web

from kwaainet.errors import LocalError
from kwaainet.native.devtools import ENDED, DevTools

Script = Callable[[web.WebSocketResponse, dict], Awaitable[None]]


@asynccontextmanager
async def connected(script: Script):
    """A ``DevTools`` whose browser runs ``script(socket, command)`` for each command."""

    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await script(socket, message.json())
        return socket

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    devtools = await DevTools.connect(f"ws://127.0.0.1:{runner.addresses[0][1]}/")
    try:
        yield devtools
    finally:
        await devtools.close()
        await runner.cleanup()


async def echo(socket: web.WebSocketResponse, command: dict) -> None:
    await socket.send_json({"id": command["id"], "result": command})


def test_a_call_returns_the_result_with_its_id() -> None:
    async def main() -> None:
        held: list[dict] = []

        async def answer_in_reverse(socket: web.WebSocketResponse, command: dict) -> None:
            held.append(command)
            if len(held) == 2:
                for one in reversed(held):
                    await socket.send_json({"id": one["id"], "result": {"method": one["method"]}})

        async with connected(answer_in_reverse) as devtools:
            first, second = await asyncio.gather(devtools.call("A.a"), devtools.call("B.b"))
        assert (first["method"], second["method"]) == ("A.a", "B.b")

    asyncio.run(main())


def test_a_call_carries_its_session_and_parameters() -> None:
    async def main() -> None:
        async with connected(echo) as devtools:
            sent = await devtools.call("Page.navigate", {"url": "x"}, session="s1")
            assert sent == {"id": 1, "method": "Page.navigate", "params": {"url": "x"}, "sessionId": "s1"}
            assert "sessionId" not in await devtools.call("Browser.getVersion")

    asyncio.run(main())


def test_a_refusal_is_an_error_with_the_browsers_words() -> None:
    async def refuse(socket: web.WebSocketResponse, command: dict) -> None:
        await socket.send_json({"id": command["id"], "error": {"code": -32601, "message": "no such method"}})

    async def main() -> None:
        async with connected(refuse) as devtools:
            with pytest.raises(LocalError, match="no such method"):
                await devtools.call("Nope.nope")

    asyncio.run(main())


def test_a_silent_browser_is_late() -> None:
    async def ignore(socket: web.WebSocketResponse, command: dict) -> None:
        pass

    async def main() -> None:
        async with connected(ignore) as devtools:
            with pytest.raises(LocalError, match=r"did not answer Page\.enable within"):
                await devtools.call("Page.enable", timeout=0.01)

    asyncio.run(main())


def test_events_go_to_their_session_and_a_failing_listener_ends_nothing() -> None:
    async def main() -> None:
        async def events_first(socket: web.WebSocketResponse, command: dict) -> None:
            for session in ("one", "two", "nobody"):
                await socket.send_json({"method": "E.e", "params": {"to": session}, "sessionId": session})
            await echo(socket, command)

        heard: list[tuple[str, dict]] = []

        def fail(method: str, params: dict) -> None:
            raise ZeroDivisionError

        async with connected(events_first) as devtools:
            devtools.on_events("one", fail)
            devtools.on_events("two", lambda method, params: heard.append((method, params)))
            await devtools.call("X.x")
            assert heard == [("E.e", {"to": "two"})]

    asyncio.run(main())


def test_a_detached_session_hears_its_end_once() -> None:
    async def main() -> None:
        async def detach(socket: web.WebSocketResponse, command: dict) -> None:
            await socket.send_json({"method": "Target.detachedFromTarget", "params": {"sessionId": "one"}})
            await echo(socket, command)

        heard: list[str] = []
        async with connected(detach) as devtools:
            devtools.on_events("one", lambda method, params: heard.append(method))
            await devtools.call("X.x")
            await devtools.call("X.x")
        assert heard == [ENDED]

    asyncio.run(main())


def test_the_browsers_end_fails_what_waits_and_ends_every_session() -> None:
    async def hang_up(socket: web.WebSocketResponse, command: dict) -> None:
        await socket.close()

    async def main() -> None:
        heard: list[str] = []
        async with connected(hang_up) as devtools:
            devtools.on_events("one", lambda method, params: heard.append(method))
            with pytest.raises(LocalError, match="closed its DevTools socket"):
                await devtools.call("X.x")
            with pytest.raises(LocalError, match="the browser is gone"):
                await devtools.call("X.x")
        assert heard == [ENDED]

    asyncio.run(main())


def test_an_address_where_nobody_listens_is_named() -> None:
    with pytest.raises(LocalError, match=r"127\.0\.0\.1:1/ does not answer"):
        asyncio.run(DevTools.connect("ws://127.0.0.1:1/"))

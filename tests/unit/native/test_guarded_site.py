"""A site's visitors are held to its relay's limits; the slow ones are let go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from kwaainet.libp2p.admission import Admission, Limits, Origin
from kwaainet.native import guarded_site, http

from .slow_site import Slow


def with_site(
    admission: Admission | None, test: Callable[[Slow, str, web.AppRunner], Awaitable[None]]
) -> None:
    async def main() -> None:
        site = Slow()
        runner, address = await http.serve(site, "127.0.0.1", 0, admission=admission)
        try:
            await test(site, address, runner)
        finally:
            site.go.set()
            await runner.cleanup()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_who_is_banned_is_told_so() -> None:
    admission = Admission()
    admission.rules.ban("127.0.0.1", "rude", None, 0)

    async def test(site: Slow, address: str, runner: web.AppRunner) -> None:
        async with aiohttp.ClientSession() as session, session.get(address) as answer:
            assert answer.status == 403
            assert "banned" in await answer.text()
        assert site.asked == 0
        assert admission.refused == {"banned": 1}

    with_site(admission, test)


def test_one_address_asks_for_so_much_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    admission = Admission(Limits().changed("streams", "1,1,1"))
    monkeypatch.setattr(admission, "origin", lambda peer, host: Origin(peer, b"\xc0\0\x02\1", b"\xc0\0\x02"))

    async def test(site: Slow, address: str, runner: web.AppRunner) -> None:
        async with aiohttp.ClientSession() as session:
            first = asyncio.ensure_future(session.get(address))
            while not site.asked:
                await asyncio.sleep(0.001)
            async with session.get(address) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (429, "5")
                assert "too many streams of one address" in await answer.text()
            site.go.set()
            assert (await first).status == 200
            async with session.get(address) as answer:
                assert answer.status == 200, "its place is free again"

    with_site(admission, test)


@pytest.mark.parametrize(
    ("first", "drip"),
    [(b"", b""), (b"GET / HT", b""), (b"GET / HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n")],
    ids=["says nothing", "half a line", "a header now and then"],
)
def test_slow_heads_are_cut_off(monkeypatch: pytest.MonkeyPatch, first: bytes, drip: bytes) -> None:
    monkeypatch.setattr(http, "IDLE_SECONDS", 0.05)

    async def test(site: Slow, address: str, runner: web.AppRunner) -> None:
        port = int(address.rsplit(":", 1)[1].strip("/"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        ended = asyncio.ensure_future(reader.read())
        while not ended.done():
            writer.write(drip)
            await asyncio.sleep(0.01)
        writer.close()
        assert site.asked == 0

    with_site(None, test)


def test_who_asks_for_much_and_reads_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_site, "STALL_SECONDS", 0.1)

    async def test(site: Slow, address: str, runner: web.AppRunner) -> None:
        port = int(address.rsplit(":", 1)[1].strip("/"))
        with socket.create_connection(("127.0.0.1", port)) as visitor:
            visitor.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(visitor, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            while not site.asked:
                await asyncio.sleep(0.001)
            assert runner.server is not None
            while runner.server.connections:
                await asyncio.sleep(0.01)

    with_site(None, test)

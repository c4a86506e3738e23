"""A relay for the doctor, of which any part can be broken: its page, its WebSockets, its libp2p."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from kwaainet.identity.keys import PrivateKey
from kwaainet.native.doctor import Outcome, Report, Step, examine
from kwaainet.native.host import NativeHost
from kwaainet.native.relay import Relay
from kwaainet.node.dht import DhtNode

ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


@dataclass
class Patient:
    """A working relay and what its page says; break either before ``examined``."""

    host: NativeHost
    relay: Relay
    said: Any
    headers: dict[str, str]
    url: str = ""

    async def examined(self) -> Report:
        return await examine(self.url)


@asynccontextmanager
async def patient(
    listen: str = "/ip4/127.0.0.1/tcp/0/ws",
    *,
    secure: ssl.SSLContext | None = None,
    with_dht: bool = True,
    before: Callable[[Patient], None] = lambda one: None,
) -> AsyncIterator[Patient]:
    """The relay, and a page of its own that says what ``said`` says."""
    async with AsyncExitStack() as stack:
        host = await NativeHost.create(PrivateKey(os.urandom(32)), [listen])
        stack.push_async_callback(host.close)
        one = Patient(host, Relay(host), {}, dict(ISOLATED))
        if with_dht:
            dht = DhtNode(host, now=time.time, random_bytes=os.urandom)
            stack.push_async_callback(dht.close)
            await dht.join([])
        await host.listen()
        one.said = {"version": "1", "relay": list(host.addresses)}
        before(one)
        one.url = await site(stack, one, secure)
        yield one


async def site(stack: AsyncExitStack, one: Patient, secure: ssl.SSLContext | None) -> str:
    """A page that says what the patient's ``said`` says; its address."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="page", headers=one.headers)

    async def describe(request: web.Request) -> web.Response:
        if isinstance(one.said, int):
            return web.Response(status=one.said, headers=one.headers)
        return web.json_response(one.said, headers=one.headers)

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_get("/kwaainet.json", describe)
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    listener = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=secure)
    await listener.start()
    port = runner.addresses[0][1]
    return f"https://localhost:{port}/" if secure else f"http://127.0.0.1:{port}/"


def step(report: Report, name: str) -> Step:
    return next(one for one in report.steps if one.name == name)


def failed(report: Report) -> list[str]:
    return [one.name for one in report.steps if one.outcome == Outcome.FAILED]


def untried(report: Report) -> list[str]:
    return [one.name for one in report.steps if one.outcome == Outcome.UNTRIED]

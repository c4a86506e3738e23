"""A site that answers when it is told to, for tests of who may wait for it."""

from __future__ import annotations

import asyncio

from aiohttp import web


class Slow:
    """Answers when it is told to, or with more than a socket holds."""

    def __init__(self) -> None:
        self.asked, self.go = 0, asyncio.Event()

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/", self._wait)
        app.router.add_get("/large", self._large)
        return app

    async def _wait(self, request: web.Request) -> web.Response:
        self.asked += 1
        await self.go.wait()
        return web.Response(text="well")

    async def _large(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(body=bytes(64 << 20))

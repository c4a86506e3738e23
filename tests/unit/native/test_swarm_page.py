import asyncio
from typing import Any

import aiohttp
from aiohttp import web

from kwaainet.errors import Unreachable
from kwaainet.native.swarm_page import SwarmPage
from kwaainet.node.overview import ModelView, ServerView
from kwaainet.swarm.routing import Hop
from kwaainet.testing.host import MemoryNetwork
from kwaainet.types import BlockRange, ServerState

PEER = MemoryNetwork(1).host().peer_id
SPAN = BlockRange(0, 2)
VIEW = ModelView(
    "m", 2, True, [1, 1], [ServerView(PEER, SPAN, ServerState.ONLINE, False, "me")], 0, [Hop(PEER, SPAN)]
)


class Fixed:
    """What is shown, or that nothing can be read."""

    def __init__(self, views: list[ModelView] | None) -> None:
        self.views = views

    async def read(self) -> list[ModelView]:
        if self.views is None:
            raise Unreachable("nobody answers")
        return self.views


def told(views: list[ModelView] | None) -> Any:
    async def main() -> Any:
        app = web.Application()
        app.add_routes(SwarmPage(Fixed(views), lambda: {"peers": 3}).routes())  # type: ignore[arg-type]
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/swarm.json"
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                return await answer.json()
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def test_the_swarm_is_told_as_plain_data() -> None:
    server = {"peer": str(PEER), "blocks": [0, 2], "state": "ONLINE", "gateway": False, "name": "me"}
    model = {
        "prefix": "m",
        "num_blocks": 2,
        "offered": True,
        "counts": [1, 1],
        "servers": [server],
        "more": 0,
        "route": [[str(PEER), 0, 2]],
    }
    assert told([VIEW]) == {"relay": {"peers": 3}, "models": [model]}


def test_the_relay_tells_its_figures_even_when_the_dht_does_not_answer() -> None:
    assert told(None) == {"relay": {"peers": 3}, "models": [], "problem": "nobody answers"}

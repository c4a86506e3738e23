"""``/swarm.json``: the whole swarm and this relay's health, for the page's map of it.

Rule of the file: it only says what ``node.overview`` and the relay know; what it costs does not depend on
how many ask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from ..errors import KwaaiNetError
from ..node.overview import FRESH, ModelView, Overview, ServerView

Figures = Callable[[], dict[str, Any]]


class SwarmPage:
    """``figures``: what the relay says of itself."""

    def __init__(self, overview: Overview, figures: Figures) -> None:
        self._overview, self._figures = overview, figures

    def routes(self) -> list[web.RouteDef]:
        """What the origin serves of this."""
        return [web.get("/swarm.json", self._answer)]

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            models = [_model(view) for view in await self._overview.read()]
        except KwaaiNetError as error:  # the relay itself may be well
            return web.json_response({"relay": self._figures(), "models": [], "problem": str(error)})
        response = web.json_response({"relay": self._figures(), "models": models})
        response.headers["Cache-Control"] = f"max-age={FRESH:g}"
        response.enable_compression()
        return response


def _model(view: ModelView) -> dict[str, Any]:
    return {
        "prefix": view.prefix,
        "num_blocks": view.num_blocks,
        "offered": view.offered,
        "counts": list(view.counts),
        "servers": [_server(server) for server in view.servers],
        "more": view.more,
        "route": [[str(hop.peer), hop.blocks.start, hop.blocks.end] for hop in view.route],
    }


def _server(server: ServerView) -> dict[str, Any]:
    return {
        "peer": str(server.peer),
        "blocks": [server.blocks.start, server.blocks.end],
        "state": server.state.name,
        "gateway": server.gateway,
        "name": server.public_name,
    }

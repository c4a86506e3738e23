"""Plain HTTP beside a site under TLS: browsers are sent to https, and an authority finds its answer.

Follows RFC 8555 (section 8.3). Rule of the file: nothing else is ever answered here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

PATH = "/.well-known/acme-challenge/{token}"


@dataclass(slots=True)
class Redirect:
    """``url`` tells where the site is; ``answers`` are those of HTTP-01, by token."""

    url: Callable[[], str]
    answers: Mapping[str, str] = field(default_factory=dict)

    def application(self) -> web.Application:
        """For ``http.serve``."""
        app = web.Application()
        app.router.add_get(PATH, self._answer)
        app.router.add_route("*", "/{path:.*}", self._redirect)
        return app

    async def _answer(self, request: web.Request) -> web.Response:
        answer = self.answers.get(request.match_info["token"])
        if answer is None:
            raise web.HTTPNotFound(text="no such challenge\n")
        return web.Response(body=answer.encode(), content_type="application/octet-stream")

    async def _redirect(self, request: web.Request) -> web.Response:
        raise web.HTTPPermanentRedirect(self.url().rstrip("/") + request.path_qs)

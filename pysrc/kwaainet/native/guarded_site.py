"""A site that holds its visitors to the limits of its relay: who may come, how much at once, how slowly.

Follows RFC 9110 (403), RFC 6585 (429) and tcp(7): ``TCP_USER_TIMEOUT`` ends a connection whose other end
acknowledges but makes no room. Rule of the file: how a site may be used, never what it serves; heads of
requests have their deadline in ``http.serve``, bodies where they are read.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from ..libp2p.admission import Admission, Kind
from .visitors import Visitors

STALL_SECONDS = 60.0  # without any room for what is sent: a tab that sleeps longer fetches anew
RETRY_SECONDS = 5


def guarded_by(admission: Admission | None, visitors: Visitors) -> Any:
    """A middleware; without ``admission`` only the deadline holds. A request is a stream of its address."""

    @web.middleware
    async def guarded(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        visitors.asked(request.protocol)
        _let_stalled_go(request)
        if admission is None:
            return await handler(request)
        if (why := admission.refusal(None, request.remote, time.time())) is not None:
            return _refused(403, f"this address is {why} here\n", closes=True)
        origin = admission.origin(None, request.remote)
        if (why := admission.take(Kind.STREAM, origin)) is not None:
            return _refused(429, f"{why}; try again in {RETRY_SECONDS} s\n")
        try:
            return await handler(request)
        finally:
            admission.release(Kind.STREAM, origin)

    return guarded


def told_of_ends(visitors: Visitors) -> type[AbstractAccessLogger]:
    """What aiohttp calls when all of an answer, files too, is written: nothing is logged."""

    class Ends(AbstractAccessLogger):
        def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
            visitors.answered(request.protocol)

    return Ends


def _refused(status: int, text: str, *, closes: bool = False) -> web.Response:
    response = web.Response(status=status, text=text)
    if closes:
        response.force_close()
    else:
        response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response


def _let_stalled_go(request: web.Request) -> None:
    option = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux has it
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if option is not None and sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, option, int(STALL_SECONDS * 1000))

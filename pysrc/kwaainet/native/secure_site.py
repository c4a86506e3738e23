"""A site under a certificate that can be replaced, behind proxies that are trusted.

Rule of the file: how a site is reached, never what it serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any

from aiohttp import web

from .doors import BACKLOG, Doors, MakeProtocol, open_door


class DoorSite(web.BaseSite):
    """Takes a runner's connections, with protocols of ``make``: under TLS through a door."""

    def __init__(self, runner: web.AppRunner, make: MakeProtocol, host: str, port: int, doors: Doors) -> None:
        super().__init__(runner)
        self._make, self._host, self._port, self._doors = make, host, port, doors

    @property
    def name(self) -> str:
        return f"{'http' if self._doors.tls is None else 'https'}://{self._host}:{self._port}"

    async def start(self) -> None:
        await super().start()
        if self._doors.tls is not None:
            self._server = open_door(self._host, self._port, self._make, self._doors.tls, self._doors)  # type: ignore[assignment]
        else:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(self._make, self._host, self._port, backlog=BACKLOG)


def shown_address(host: str, port: int, doors: Doors) -> str:
    """The site's address for people, under a name of the certificate if there is one."""
    address = ip_address(host) if host[:1].isdigit() or ":" in host else None
    shown = f"[{address}]" if address is not None and address.version == 6 else host
    if address is not None and address.is_unspecified:
        shown = "localhost"
    if doors.tls is None:
        return f"http://{shown}:{port}/"
    certificate = doors.tls.certificate
    names = [name for name in certificate.names if "*" not in name]
    if not certificate.covers(shown.strip("[]")) and names:
        shown = f"[{names[0]}]" if ":" in names[0] else names[0]
    return f"https://{shown}/" if port == 443 else f"https://{shown}:{port}/"


def forwarded_by(doors: Doors) -> Any:
    """A request through a proxy that is trusted counts as its client's."""

    @web.middleware
    async def forwarded(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        said = ",".join(request.headers.getall("X-Forwarded-For", []))
        if said and request.remote:
            request = request.clone(remote=doors.client(request.remote, said))
        return await handler(request)

    return forwarded

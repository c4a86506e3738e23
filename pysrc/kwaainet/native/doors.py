"""Where connections come in: accepted, under TLS where there is a certificate, and told apart by their
first request where relay and site share a port.

Follows RFC 9110 (a request that asks for a WebSocket says so in ``Upgrade``) and what Caddy and nginx put
into ``X-Forwarded-For``. Rule of the file: nothing is served here; a handshake that fails or takes
too long costs nobody else anything.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TypeAlias, cast

from ..errors import ConfigError
from ..libp2p.admission import Admission, Kind, Origin
from .tls import Tls

log = logging.getLogger(__name__)

MAX_OPENING = 256  # connections under handshake; over it the one that takes longest gives way
HANDSHAKE_TIMEOUT = 15.0  # seconds
HEAD_TIMEOUT = 15.0  # seconds for the head of the first request
MAX_HEAD = 16384  # bytes of it that are kept
BACKLOG = 1024
OUT_OF_FILES = 0.5  # seconds to wait when the system has no descriptor for us
_TRUST = "if it is your proxy, give --trusted-proxy with its address"
_UPGRADE = re.compile(rb"\r\nupgrade:[ \t]*websocket[ \t]*\r\n", re.IGNORECASE)
_STARTING = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)

MakeProtocol: TypeAlias = Callable[[], asyncio.BaseProtocol]
Subnet: TypeAlias = IPv4Network | IPv6Network


@dataclass(slots=True)
class Doors:
    """What all ways into one process have in common: the certificate, which ports are ``shared`` by
    relay and site, who serves the ``site`` there, and the proxies whose word on a client's address counts."""

    tls: Tls | None = None
    shared: frozenset[int] = frozenset()
    site: MakeProtocol | None = None
    trusted: Sequence[Subnet] = ()
    url: str = ""  # of the site, once it is served
    warned: bool = False  # of a proxy that is not trusted
    webrtc_key: Path | None = None  # where the certificate of WebRTC-Direct is kept
    admission: Admission | None = None  # holds each address to its share of sockets that say nothing

    def client(self, peer: str, forwarded: str) -> str:
        """The address a connection is from: ``peer``, or what trusted proxies say in ``X-Forwarded-For``."""
        hops = [hop.strip() for hop in forwarded.split(",")] if forwarded else []
        if hops and not self.trusts(peer):
            self._warn(peer)
        while hops and self.trusts(peer):
            peer = hops.pop()
        return peer if _is_address(peer) else "0.0.0.0"

    def fork(self, upgraded: MakeProtocol, port: int) -> MakeProtocol:
        """``upgraded``, or on a shared port what asks first whether a WebSocket is wished."""
        return (lambda: Fork(self, upgraded)) if port in self.shared else upgraded

    def trusts(self, host: str) -> bool:
        """Whether there is a proxy of ours."""
        if not self.trusted or not _is_address(host):
            return False
        address = ip_address(host)
        return any(address.version == net.version and address in net for net in self.trusted)

    def _warn(self, peer: str) -> None:
        """Once: all that come through a proxy that is not trusted count as one address."""
        if not self.warned:
            self.warned = True
            log.warning(
                "%s speaks for others, but is not trusted: all of them count as one; %s", peer, _TRUST
            )


@dataclass(slots=True)
class Opening:
    """The place of a socket that has not said yet what it wants, among those of its address."""

    doors: Doors
    _origin: Origin | None = None

    def enter(self, host: str) -> bool:
        """Whether there is room for one more from there; it is held until ``leave``."""
        admission = self.doors.admission
        if admission is None or self.doors.trusts(host):
            return True
        origin = admission.origin(None, host)
        if admission.take(Kind.OPENING, origin) is not None:
            return False
        self._origin = origin
        return True

    def leave(self) -> None:
        """It has said it, or is gone."""
        if self._origin is not None and self.doors.admission is not None:
            self.doors.admission.release(Kind.OPENING, self._origin)
            self._origin = None


def parse_subnet(text: str) -> Subnet:
    """``10.0.0.0/8``, ``::1``; ``ConfigError`` otherwise."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigError(f"--trusted-proxy {text!r} is no IP address or subnet: {error}") from None


class Door:
    """A port on which connections are accepted; ``open_door`` makes it."""

    def __init__(self, sock: socket.socket, make: MakeProtocol, tls: Tls | None, doors: Doors) -> None:
        self.sockets = [sock]
        self._doors = doors
        self._sock, self._make, self._tls = sock, make, tls
        self._opening: dict[asyncio.Task[None], Opening] = {}
        self._accepting = asyncio.ensure_future(self._accept())

    @property
    def port(self) -> int:
        """The one that was bound."""
        return int(self._sock.getsockname()[1])

    def close(self) -> None:
        """Take no more connections."""
        self._accepting.cancel()
        for task in list(self._opening):
            task.cancel()
        asyncio.get_running_loop().call_soon(self._sock.close)  # once nobody waits for it any more

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await loop.sock_accept(self._sock)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    log.error("no connection can be accepted: %s", error.strerror)
                    await asyncio.sleep(OUT_OF_FILES)
                continue  # else: it went away before it was taken
            opening = Opening(self._doors)
            if not opening.enter(str(peer[0])):
                sock.close()
                continue
            if len(self._opening) >= MAX_OPENING:
                next(iter(self._opening)).cancel()
            task = asyncio.ensure_future(self._open(sock))
            self._opening[task] = opening
            task.add_done_callback(lambda done: self._opening.pop(done).leave())

    async def _open(self, sock: socket.socket) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                context = await self._tls.context_for(sock) if self._tls is not None else None
                loop = asyncio.get_running_loop()  # not aiofastnet: it logs strangers' handshakes as errors
                await loop.connect_accepted_socket(self._make, sock, ssl=context)
        except (OSError, ssl.SSLError, TimeoutError) as error:
            log.debug("a connection was not opened: %s", error or "timeout")
            sock.close()
        except asyncio.CancelledError:
            sock.close()
            raise


def open_door(host: str, port: int, make: MakeProtocol, tls: Tls | None, doors: Doors) -> Door:
    """Accept on an IP address. Raises ``OSError``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family, backlog=BACKLOG)
    sock.setblocking(False)
    return Door(sock, make, tls, doors)


class Fork(asyncio.Protocol):
    """Reads the head of a connection's first request, then hands all to who serves it."""

    def __init__(self, doors: Doors, upgraded: MakeProtocol) -> None:
        self._doors, self._upgraded, self._opening = doors, upgraded, Opening(doors)
        self._head = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._opening.enter(peer_host(transport)):
            self._transport.abort()
            return
        self._timer = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" in self._head or len(self._head) >= MAX_HEAD:
            self._hand_over()

    def connection_lost(self, exc: Exception | None) -> None:
        self._opening.leave()
        if self._timer is not None:
            self._timer.cancel()

    def _hand_over(self) -> None:
        transport, head = self._transport, bytes(self._head)
        assert transport is not None
        assert self._timer is not None
        self._timer.cancel()
        self._opening.leave()
        asked, _, _ = head.partition(b"\r\n\r\n")
        make = self._upgraded if _UPGRADE.search(asked + b"\r\n") else self._doors.site
        if make is None:  # the site is not up yet
            transport.write(_STARTING)
            transport.close()
            return
        protocol = make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        _feed(protocol, head)


def _feed(protocol: asyncio.BaseProtocol, data: bytes) -> None:
    if not isinstance(protocol, asyncio.BufferedProtocol):
        cast(asyncio.Protocol, protocol).data_received(data)
        return
    while data:
        room = memoryview(cast(bytearray, protocol.get_buffer(len(data))))
        size = min(len(room), len(data))
        room[:size] = data[:size]
        protocol.buffer_updated(size)
        data = data[size:]


def shared_ports(http_port: int, listen: Iterable[tuple[str | None, int]]) -> frozenset[int]:
    """Ports that are given both for the site and for WebSockets; ``listen`` are transports and ports."""
    return frozenset(port for kind, port in listen if kind in ("ws", "wss") and port == http_port and port)


def peer_host(transport: asyncio.BaseTransport) -> str:
    """The IP address at the other end of a socket; unspecified if it is gone already."""
    return str((transport.get_extra_info("peername") or ("0.0.0.0",))[0]).partition("%")[0]


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True

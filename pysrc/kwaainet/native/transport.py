"""TCP and WebSocket: listeners and dialers that end in a ``Link``.

Rule of the file: addresses in, links out; it knows nothing of peers or protocols. WebSocket framing
and masking are picows' (C); the other side's pings are answered while it reads, its text messages end
a connection.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import aiofastnet
import picows
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # a server of picows' would take a port

from ..errors import InputError, StreamReset, Unreachable
from ..libp2p.multiaddr import Multiaddr
from .doors import Door, Doors, Opening, open_door, peer_host
from .link import Link, Wire
from .stream import HIGH_WATER, LINGER, RawStream

MAX_WS_FRAME = 1 << 20  # bytes, held until it is whole, by strangers too; js-libp2p sends 64 KiB, we 256
UNSENT = (
    128 << 10
)  # bytes the system may hold beside what is under way: all circuits of a link wait behind them
READ_BUFFER = 2 << 10  # bytes at first; it grows with what comes, and most connections are idle
READ_MOST = 260 << 10  # bytes of one read, a frame of ours and its head; picows doubles what a read fills
SOCKET_BUFFER = 512 << 10  # bytes a socket may hold unsent before its link is paused
_WS_HANDSHAKE_TIMEOUT = 15.0
_FAMILIES = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}  # dns means either

logger = logging.getLogger(__name__)
_picows_logger = logging.getLogger("kwaainet.native.picows")
_picows_logger.setLevel(logging.WARNING)  # it tells every connection at INFO, as the network does


class _PicowsLog(logging.LoggerAdapter[logging.Logger]):
    """What a peer does wrong is no error of ours."""

    def error(self, msg: object, *args: object, **kwargs: Any) -> None:
        logger.info(f"closing a WebSocket: {msg}", *args)


_ws_logger = _PicowsLog(_picows_logger)

_BINARY = WSMsgType.BINARY
_NO_PINGS = (False, 20, 20, picows.WSAutoPingStrategy.PING_WHEN_IDLE, False)
_WS_OPTIONS = (_ws_logger, True, _WS_HANDSHAKE_TIMEOUT, *_NO_PINGS, MAX_WS_FRAME, None, READ_BUFFER)
# As ``picows.ws_connect`` and ``ws_create_server`` give them to their protocol, after its listener.

MakeLink: TypeAlias = Callable[[Wire, Multiaddr], Link | None]  # None: refuse the connection


class TcpWire(asyncio.Protocol):
    """A TCP socket under a link."""

    def __init__(self, make_link: MakeLink) -> None:
        self._make_link = make_link
        self._transport: asyncio.Transport | None = None
        self.link: Link | None = None

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            asyncio.get_running_loop().call_later(LINGER, self._transport.abort)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        _bound(self._transport)
        self.link = self._make_link(self, _remote(self._transport))
        if self.link is None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.link is not None:
            self.link.receive(data)

    def pause_writing(self) -> None:
        if self.link is not None:
            self.link.pause()

    def resume_writing(self) -> None:
        if self.link is not None:
            self.link.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.link is not None:
            self.link.lost(str(exc) if exc else "the peer closed it")


class WsWire(WSListener):
    """A WebSocket under a link. ``client`` tells whose it is from the address of the socket's other end."""

    def __init__(self, make_link: MakeLink, client: Callable[[str], str] | None = None) -> None:
        self._make_link = make_link
        self._client = client
        self._transport: WSTransport | None = None
        self._full = False
        self.link: Link | None = None

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.send(_BINARY, data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.disconnect()
            asyncio.get_running_loop().call_later(LINGER, self._transport.disconnect, False)

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        beneath = transport.underlying_transport
        _bound(beneath)
        self.link = self._make_link(self, _remote(beneath, self._client) / "/ws")
        if self.link is None:
            transport.disconnect()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == _BINARY or kind == WSMsgType.CONTINUATION:
            if self.link is not None:
                self.link.receive(frame.get_payload_as_memoryview(), more=not frame.last_in_buffer)
        elif kind == WSMsgType.PING:
            if not self._full:  # or whoever pings and does not read fills our memory with pongs
                transport.send_pong(frame.get_payload_as_bytes())
        elif kind in (WSMsgType.CLOSE, WSMsgType.TEXT):
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self.link is not None:
            self.link.lost("the peer closed it")

    def pause_writing(self) -> None:
        self._full = True
        if self.link is not None:
            self.link.pause()

    def resume_writing(self) -> None:
        self._full = False
        if self.link is not None:
            self.link.resume()


class CircuitWire:
    """A stream through a relay under a link: the inner connection is its peer's, not the relay's."""

    def __init__(self, stream: RawStream, address: Multiaddr, make_link: MakeLink) -> None:
        self._stream = stream
        self._paused = False
        self.link = make_link(self, address)
        if self.link is None:
            stream.reset()
        else:
            stream.attach(self)

    def write(self, data: bytes) -> None:
        try:
            self._stream.write(data)
        except StreamReset:
            return  # the stream tells the link itself
        if not self._paused and self._stream.unsent > HIGH_WATER and self.link is not None:
            self._paused = True
            self.link.pause()

    def close(self) -> None:
        self._stream.close()

    def stream_data(self, data: bytes | memoryview) -> None:
        if self.link is not None:
            self.link.receive(data)
        self._stream.grant(len(data))

    def stream_sent(self) -> None:
        if self._paused and self._stream.unsent < HIGH_WATER // 2 and self.link is not None:
            self._paused = False
            self.link.resume()

    def stream_ended(self) -> None:
        self._stream.finish()
        if self.link is not None:
            self.link.lost("the peer closed its circuit")

    def stream_gone(self, error: Exception) -> None:
        if self.link is not None:
            self.link.lost(f"its circuit ended: {error}")


@dataclass(slots=True)
class Listener:
    """A bound address; ``address`` has the port that was given if 0 was asked for."""

    address: Multiaddr
    _server: asyncio.Server | Door = field(repr=False)

    def close(self) -> None:
        """Take no more connections."""
        self._server.close()


async def listen(address: Multiaddr, make_link: MakeLink, doors: Doors | None = None) -> Listener:
    """Bind ``/tcp``, ``/tcp/../ws`` or ``/tcp/../tls/ws``. Raises ``InputError`` or ``Unreachable``."""
    kind = address.transport
    if kind is None or address.names[0] not in ("ip4", "ip6"):
        raise InputError(
            f"cannot listen on {address}; give /ip4/HOST/tcp/PORT, with /ws or /tls/ws behind it"
        )
    doors = doors or Doors()
    if kind == "wss" and doors.tls is None:
        raise InputError(f"cannot listen on {address} without a certificate; give --tls-cert and --tls-key")
    host, port = address.host_port
    server: asyncio.Server | Door
    try:
        if kind == "tcp":
            loop = asyncio.get_running_loop()
            server = await loop.create_server(lambda: TcpWire(make_link), host, port)
        elif kind == "ws" and port not in doors.shared:
            server = await aiofastnet.create_server(
                asyncio.get_running_loop(), lambda: _ws_server(make_link, doors), host, port
            )
        else:
            make = doors.fork(lambda: _ws_server(make_link, doors), port)
            server = open_door(host, port, make, doors.tls if kind == "wss" else None, doors)
    except OSError as error:
        raise Unreachable(f"cannot listen on {address}: {error}") from error
    port = server.sockets[0].getsockname()[1]
    bound = Multiaddr((address.parts[0], ("tcp", str(port)), *address.parts[2:]))
    return Listener(bound, server)


async def dial(address: Multiaddr, make_link: MakeLink) -> Link:
    """Connect to a TCP or WebSocket address. Raises ``Unreachable``; the handshake is still to come."""
    host, port = address.host_port
    family = _FAMILIES.get(address.names[0], socket.AF_UNSPEC)
    wire: TcpWire | WsWire | None
    try:
        if address.transport == "tcp":
            loop = asyncio.get_running_loop()
            _, wire = await loop.create_connection(lambda: TcpWire(make_link), host, port, family=family)
        else:
            wire = await _dial_ws(address, make_link, family)
    except (OSError, UnicodeError, picows.WSError) as error:  # a peer's name may be one that no host can have
        raise Unreachable(f"{address}: {error}") from error
    if wire is None:  # as picows has it
        raise Unreachable(f"{address}: the connection was closed before it was a WebSocket")
    if wire.link is None:
        raise Unreachable(f"{address}: too many connections are open")
    return wire.link


async def _dial_ws(address: Multiaddr, make_link: MakeLink, family: int) -> WsWire | None:
    host, port = address.host_port
    netloc = f"[{host}]:{port}" if address.names[0] == "ip6" else f"{host}:{port}"
    transport, protocol = await aiofastnet.create_connection(
        asyncio.get_running_loop(),
        lambda: _WsProtocol(netloc, "/", True, lambda: WsWire(make_link), *_WS_OPTIONS),
        host,
        port,
        ssl=ssl.create_default_context() if address.transport == "wss" else None,
        family=family,
    )
    try:
        await protocol.wait_until_handshake_complete()
    except asyncio.CancelledError:
        transport.abort()
        raise
    return cast(WsWire | None, protocol.listener)


def _upgrade(request: WSUpgradeRequest, make_link: MakeLink, doors: Doors) -> WSListener:
    forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
    return WsWire(make_link, (lambda peer: doors.client(peer, forwarded)) if forwarded else None)


class _WsProtocol(WSProtocol):  # type: ignore[misc]  # has no types
    """Reads a bounded piece at a time, or whoever sends faster than we read makes of picows' buffer one as
    large as the system's own."""

    def get_buffer(self, hint: int) -> memoryview:
        room: memoryview = super().get_buffer(hint)
        return room[:READ_MOST]


class _WsServer(_WsProtocol):
    """A connection that should become a WebSocket; until it did, it is one of few of its address."""

    opening: Opening

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self.opening.enter(peer_host(transport)):  # later, or aiofastnet watches a socket that is gone
            asyncio.get_running_loop().call_soon(cast(asyncio.Transport, transport).abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self.opening.leave()
        super().connection_lost(exc)


def _ws_server(make_link: MakeLink, doors: Doors) -> asyncio.BaseProtocol:
    """The protocol of one WebSocket that came in, as ``picows.ws_create_server`` makes it."""
    opening = Opening(doors)

    def upgrade(request: WSUpgradeRequest) -> WSListener:
        opening.leave()
        return _upgrade(request, make_link, doors)

    protocol = _WsServer(None, None, False, upgrade, *_WS_OPTIONS)
    protocol.opening = opening
    return cast(asyncio.BaseProtocol, protocol)


def _remote(transport: asyncio.BaseTransport, client: Callable[[str], str] | None = None) -> Multiaddr:
    host, port = (transport.get_extra_info("peername") or ("0.0.0.0", 0))[:2]  # gone already
    host = host.partition("%")[0]
    if client is not None:
        host = client(host)
    return Multiaddr((("ip6" if ":" in host else "ip4", host), ("tcp", str(port))))


def _bound(transport: asyncio.BaseTransport) -> None:
    """Bytes wait where circuits take turns, not in a socket, where the first to come is the first to go."""
    cast(asyncio.WriteTransport, transport).set_write_buffer_limits(high=SOCKET_BUFFER)
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None:
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, option, UNSENT)

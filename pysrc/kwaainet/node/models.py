"""Several models behind one host: each request goes to the handler of the model that it names.

The protocol ids are the same for all models; the block uids in a request tell them apart. Rule of the
file: a node of one model pays nothing for it; what a request names is all that is read here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from ..errors import ProtocolError, RequestError
from ..ports import Host, Stream, StreamHandler, UnaryHandler
from ..swarm import blocks
from ..types import PeerId
from ..wire import msgpack
from ..wire.messages import ExpertInfo, ExpertRequest, ExpertUID

FIRST_MESSAGE_TIMEOUT = 60.0  # seconds for the message that names the model
Handler = TypeVar("Handler")
INFO = "TransformerConnectionHandler.rpc_info"


class ModelHosts:
    """Hands out one host a model, all on the same real one. Register every model before it listens."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._unary: dict[str, dict[str, UnaryHandler]] = {}  # by protocol, then by model
        self._streams: dict[str, dict[str, StreamHandler]] = {}

    def of(self, prefix: str) -> Host:
        """Where the handler of the model ``prefix`` registers; a later one takes its place."""
        return _ModelHost(self, prefix)

    def handle_unary(self, prefix: str, protocol: str, handler: UnaryHandler) -> None:
        """Serve ``protocol`` for one model."""
        if protocol not in self._unary:
            self._unary[protocol] = {}

            async def dispatch(peer: PeerId, request: bytes) -> bytes:
                return await self._call(protocol, peer, request)

            self.host.handle_unary(protocol, dispatch)
        self._unary[protocol][prefix] = handler

    def handle_stream(self, prefix: str, protocol: str, handler: StreamHandler) -> None:
        """Serve ``protocol`` for one model."""
        if protocol not in self._streams:
            self._streams[protocol] = {}

            async def dispatch(stream: Stream) -> None:
                await self._serve(protocol, stream)

            self.host.handle_stream(protocol, dispatch)
        self._streams[protocol][prefix] = handler

    async def _call(self, protocol: str, peer: PeerId, request: bytes) -> bytes:
        handlers = self._unary[protocol]
        if len(handlers) == 1:
            return await next(iter(handlers.values()))(peer, request)
        if protocol != INFO:
            return await _chosen(handlers, ExpertRequest.decode(request).uid)(peer, request)
        uid = ExpertUID.decode(request).uid
        if uid:
            return await _chosen(handlers, uid)(peer, request)
        return _joined({prefix: await handler(peer, request) for prefix, handler in handlers.items()})

    async def _serve(self, protocol: str, stream: Stream) -> None:
        handlers = self._streams[protocol]
        if len(handlers) == 1:
            return await next(iter(handlers.values()))(stream)
        try:
            async with asyncio.timeout(FIRST_MESSAGE_TIMEOUT):
                first = await stream.receive()
        except TimeoutError:
            raise RequestError(f"no request came within {FIRST_MESSAGE_TIMEOUT:g} s") from None
        if first is None:
            return None
        handler = _chosen(handlers, ExpertRequest.decode(first).uid)
        return await handler(_Begun(stream, first))


def _chosen(handlers: dict[str, Handler], uid: str) -> Handler:
    """The handler of the model that the first block of a request belongs to."""
    prefix, _ = blocks.split(uid.partition(" ")[0])
    if prefix not in handlers:
        raise RequestError(
            f"no block of {prefix[:128]!r} is served here; this server has {', '.join(handlers)}"
        )
    return handlers[prefix]


def _joined(infos: dict[str, bytes]) -> bytes:
    """What a node of several models says of itself: as the first, with the cache and the names of all."""
    maps = {prefix: msgpack.loads(ExpertInfo.decode(info).serialized_info) for prefix, info in infos.items()}
    if not all(isinstance(info, dict) for info in maps.values()):
        raise ProtocolError("a handler's rpc_info is no map")
    whole = next(iter(maps.values())) | {"models": list(maps)}
    whole["cache_tokens_available"] = sum(info.get("cache_tokens_available", 0) for info in maps.values())
    return ExpertInfo(msgpack.dumps(whole)).encode()


class _ModelHost:
    """``Host`` for one model: registers with the others', calls like the real one."""

    def __init__(self, models: ModelHosts, prefix: str) -> None:
        self._models, self._prefix, self._host = models, prefix, models.host

    @property
    def peer_id(self) -> PeerId:
        return self._host.peer_id

    @property
    def addresses(self) -> Sequence[str]:
        return self._host.addresses

    def handle_unary(self, protocol: str, handler: UnaryHandler) -> None:
        self._models.handle_unary(self._prefix, protocol, handler)

    def handle_stream(self, protocol: str, handler: StreamHandler) -> None:
        self._models.handle_stream(self._prefix, protocol, handler)

    async def listen(self) -> None:
        await self._host.listen()

    async def call(self, peer: PeerId, protocol: str, request: bytes, *, timeout: float) -> bytes:
        return await self._host.call(peer, protocol, request, timeout=timeout)

    async def open_stream(self, peer: PeerId, protocol: str, *, timeout: float) -> Stream:
        return await self._host.open_stream(peer, protocol, timeout=timeout)

    async def close(self) -> None:
        await self._host.close()


class _Begun:
    """A stream whose first message was read already, and is read again."""

    def __init__(self, stream: Stream, first: bytes) -> None:
        self._stream = stream
        self._first: bytes | None = first

    @property
    def remote_peer(self) -> PeerId:
        return self._stream.remote_peer

    async def receive(self) -> bytes | None:
        if self._first is None:
            return await self._stream.receive()
        first, self._first = self._first, None
        return first

    async def send(self, message: bytes) -> None:
        await self._stream.send(message)

    async def end(self) -> None:
        await self._stream.end()

    async def close(self) -> None:
        await self._stream.close()

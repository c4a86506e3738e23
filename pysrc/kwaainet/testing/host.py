"""Hosts on a network in memory, with seeded latency, loss, partitions and peers that vanish.

``MemoryHost`` implements ``ports.Host``. Rule of the file: the same seed gives the same run, so
nothing iterates over sets and every random number comes from the network's generator.

What is lost is a whole unary call or stream opening (its caller hears nothing and times out);
messages on an open stream are never lost, as on any reliable transport; a peer that is frozen gets
and sends them when it thaws.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol

from ..errors import (
    UNAVAILABLE,
    HandshakeError,
    KwaaiNetError,
    RpcError,
    StreamReset,
    Unreachable,
    UsageError,
)
from ..ports import Stream, StreamHandler, UnaryHandler
from ..types import PeerId
from .stream import MemoryStream, pair

logger = logging.getLogger(__name__)

MAX_UNARY_SIZE = 4 * 1024 * 1024  # bytes, as p2pd allows
LINGER_SECONDS = 1.0  # how long a served stream waits for its caller's end
_ED25519_PREFIX = bytes.fromhex("002408011220")  # identity multihash of a libp2p public key
_ADDRESS_PREFIX = "/memory/p2p/"


class _Breakable(Protocol):
    @property
    def done(self) -> bool:
        """Nothing is left to break."""

    def break_off(self) -> None:
        """The connection this stands on is gone."""


class _Call:
    """One unary call under way: the caller waits for ``reply``, which a lost connection ends."""

    def __init__(self) -> None:
        self.reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    @property
    def done(self) -> bool:
        return self.reply.done()

    def answer(self, result: bytes | KwaaiNetError) -> None:
        if self.reply.done():
            return
        if isinstance(result, bytes):
            self.reply.set_result(result)
        else:
            self.reply.set_exception(result)

    def break_off(self) -> None:
        self.answer(StreamReset("the connection was lost before the reply came"))


class MemoryNetwork:
    """Carries calls between its hosts.

    ``latency``: mean seconds one way, drawn from 0.5 to 1.5 times that. ``loss``: the probability
    that a call or an opening stream is swallowed; may be changed while running.
    """

    def __init__(self, seed: int = 0, *, latency: float = 0.01, loss: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.latency = latency
        self.loss = loss
        self._hosts: dict[PeerId, MemoryHost] = {}
        self._links: dict[tuple[PeerId, PeerId], list[_Breakable]] = {}
        self._group: dict[PeerId, int] = {}
        self._frozen: dict[PeerId, None] = {}

    def host(self, peer_id: PeerId | None = None) -> MemoryHost:
        """A new host, by default under a new Ed25519-shaped id."""
        peer_id = peer_id or PeerId(_ED25519_PREFIX + self.random.randbytes(32))
        if peer_id in self._hosts:
            raise UsageError(f"{peer_id} is on this network already")
        self._hosts[peer_id] = MemoryHost(self, peer_id)
        return self._hosts[peer_id]

    def vanish(self, peer: PeerId) -> None:
        """The peer's process is killed: no farewell, its connections break."""
        host = self._hosts.pop(peer, None)
        self.thaw(peer)
        if host is not None:
            host.stop_tasks()
            self.disconnect(peer)

    def freeze(self, peer: PeerId) -> None:
        """The peer falls silent: nothing reaches or leaves it, yet no connection ends."""
        self._frozen[peer] = None

    def thaw(self, peer: PeerId) -> None:
        """Undo ``freeze``."""
        self._frozen.pop(peer, None)

    def partition(self, *groups: Iterable[PeerId]) -> None:
        """Split: between peers of different groups nothing passes; a peer in no group hears all."""
        self._group = {peer: index for index, group in enumerate(groups) for peer in group}
        for one, other in list(self._links):
            if not (self.passes(one, other) or self.is_stalled(one, other)):
                self._break_link(one, other)

    def heal(self) -> None:
        """Undo ``partition``."""
        self._group = {}

    # --- used by the hosts ------------------------------------------------------------------------

    def delay(self) -> float:
        """Seconds one way."""
        return self.latency * self.random.uniform(0.5, 1.5)

    def is_lost(self) -> bool:
        return self.random.random() < self.loss

    def is_stalled(self, one: PeerId, other: PeerId) -> bool:
        return one in self._frozen or other in self._frozen

    def passes(self, one: PeerId, other: PeerId) -> bool:
        if self.is_stalled(one, other):
            return False
        groups = self._group.get(one), self._group.get(other)
        return None in groups or groups[0] == groups[1]

    async def dial(self, source: PeerId, target: PeerId) -> MemoryHost:
        """The host to talk to, after one way's delay. Raises ``Unreachable``; waits for ever where
        a packet would be dropped."""
        await asyncio.sleep(self.delay())
        if self.is_lost() or not self.passes(source, target):
            await asyncio.get_running_loop().create_future()
        host = self._hosts.get(target)
        if host is None or target == source:
            raise Unreachable(f"no host answers for {target}")
        if not host.listening and not self.connected(source, target):
            raise Unreachable(f"{target} does not listen and is not connected to {source}")
        self._links.setdefault(_link(source, target), [])
        return host

    def connected(self, one: PeerId, other: PeerId) -> bool:
        return _link(one, other) in self._links

    def neighbours(self, peer: PeerId) -> list[PeerId]:
        return [one if other == peer else other for one, other in self._links if peer in (one, other)]

    def stand_on_link(self, one: PeerId, other: PeerId, what: _Breakable) -> None:
        link = _link(one, other)
        if link not in self._links:
            raise StreamReset("the connection was lost while it was being opened")
        self._links[link] = [*(standing for standing in self._links[link] if not standing.done), what]

    def remove(self, peer: PeerId) -> None:
        self._hosts.pop(peer, None)
        self.thaw(peer)

    def disconnect(self, peer: PeerId) -> None:
        for neighbour in self.neighbours(peer):
            self._break_link(peer, neighbour)

    def _break_link(self, one: PeerId, other: PeerId) -> None:
        for standing in self._links.pop(_link(one, other)):
            standing.break_off()
        for peer, lost in ((one, other), (other, one)):
            if peer in self._hosts:
                self._hosts[peer].peer_lost(lost)


def _link(one: PeerId, other: PeerId) -> tuple[PeerId, PeerId]:
    return (one, other) if one < other else (other, one)


class MemoryHost:
    """``ports.Host`` on a ``MemoryNetwork``, plus what ``NativeHost`` has beyond the port:
    ``connect``, ``connected_peers`` and ``on_peer_lost``."""

    def __init__(self, network: MemoryNetwork, peer_id: PeerId) -> None:
        self._network = network
        self._peer_id = peer_id
        self._unary: dict[str, UnaryHandler] = {}
        self._streams: dict[str, StreamHandler] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._served: list[MemoryStream] = []
        self._opened: list[MemoryStream] = []
        self._lost_callbacks: list[Callable[[PeerId], None]] = []
        self._closed = False
        self.listening = False

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    @property
    def addresses(self) -> Sequence[str]:
        return (f"{_ADDRESS_PREFIX}{self._peer_id}",) if self.listening else ()

    @property
    def connected_peers(self) -> Sequence[PeerId]:
        return self._network.neighbours(self._peer_id)

    def on_peer_lost(self, callback: Callable[[PeerId], None]) -> None:
        """Call back with each peer whose connection ended."""
        self._lost_callbacks.append(callback)

    def handle_unary(self, protocol: str, handler: UnaryHandler) -> None:
        self._unary[protocol] = handler

    def handle_stream(self, protocol: str, handler: StreamHandler) -> None:
        self._streams[protocol] = handler

    async def listen(self) -> None:
        self._check_open()
        self.listening = True

    async def connect(self, address: str) -> PeerId:
        """Dial ``/memory/p2p/ID``. Raises ``Unreachable``."""
        self._check_open()
        peer = PeerId.parse(address.removeprefix(_ADDRESS_PREFIX))
        await self._network.dial(self._peer_id, peer)
        return peer

    async def call(self, peer: PeerId, protocol: str, request: bytes, *, timeout: float) -> bytes:
        self._check_open()
        if len(request) > MAX_UNARY_SIZE:
            raise UsageError(f"a unary request of {len(request)} bytes; at most {MAX_UNARY_SIZE} pass")
        async with asyncio.timeout(timeout):
            target = await self._network.dial(self._peer_id, peer)
            if protocol not in target._unary:
                raise HandshakeError(f"{peer} does not speak {protocol}")
            return await self._exchange(target, protocol, request)

    async def open_stream(self, peer: PeerId, protocol: str, *, timeout: float) -> Stream:
        self._check_open()
        async with asyncio.timeout(timeout):
            target = await self._network.dial(self._peer_id, peer)
            await asyncio.sleep(self._network.delay())
        handler = target._streams.get(protocol)
        if handler is None:
            raise HandshakeError(f"{peer} does not speak {protocol}")
        network, us = self._network, self._peer_id
        ours, theirs = pair(us, peer, network.delay, lambda: network.is_stalled(us, peer))
        for end in (ours, theirs):
            self._network.stand_on_link(self._peer_id, peer, end)
        self._opened = [*(stream for stream in self._opened if not stream.done), ours]
        target._spawn(target._serve_stream(handler, theirs))
        return ours

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for served in self._served:
            served.fail(f"{UNAVAILABLE}it is leaving the network")
        for opened in self._opened:
            await opened.close()
        self.stop_tasks()
        self._network.remove(self._peer_id)
        # the farewells are on their way; the connections end behind them
        asyncio.get_running_loop().call_later(
            2 * self._network.latency, self._network.disconnect, self._peer_id
        )

    # --- used by the network ----------------------------------------------------------------------

    def stop_tasks(self) -> None:
        self._closed = True
        for task in list(self._tasks):
            task.cancel()

    def peer_lost(self, peer: PeerId) -> None:
        for callback in self._lost_callbacks:
            callback(peer)

    # --- serving ----------------------------------------------------------------------------------

    async def _exchange(self, target: MemoryHost, protocol: str, request: bytes) -> bytes:
        call, peer = _Call(), target.peer_id
        self._network.stand_on_link(self._peer_id, peer, call)
        serving = target._spawn(target._serve_unary(self._peer_id, protocol, request, call))
        try:
            reply = await call.reply
            await asyncio.sleep(self._network.delay())
        finally:
            serving.cancel()
        if self._network.is_lost() or not self._network.passes(self._peer_id, peer):
            await asyncio.get_running_loop().create_future()
        return reply

    async def _serve_unary(self, caller: PeerId, protocol: str, request: bytes, call: _Call) -> None:
        try:
            reply = await self._unary[protocol](caller, request)
        except KwaaiNetError as error:
            call.answer(RpcError(repr(error)))
        except Exception:
            logger.exception("%s failed on a request of %s", protocol, caller)
            call.answer(RpcError("internal error"))
        else:
            call.answer(reply)

    async def _serve_stream(self, handler: StreamHandler, stream: MemoryStream) -> None:
        self._served.append(stream)
        try:
            await handler(stream)
        except KwaaiNetError as error:
            stream.fail(str(error) or type(error).__name__)
        except Exception:
            logger.exception("a stream of %s failed", stream.remote_peer)
            stream.fail("internal error")
        else:
            await stream.linger(LINGER_SECONDS)
            await stream.close()
        finally:
            self._served.remove(stream)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    def _check_open(self) -> None:
        if self._closed:
            raise Unreachable("this host is closed")

"""The two ends of a stream RPC in memory, and the pipe between them.

Semantics are those of ``ports.Stream`` over libp2p: messages arrive whole and in order, a sender
waits while the other side has ``WINDOW`` bytes unread, a cancelled stream fails at both ends.
Rule of the file: only ``testing.host`` builds these; a test sees them as ``ports.Stream``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..errors import KwaaiNetError, RpcError, StreamReset, UsageError
from ..types import PeerId

WINDOW = 256 * 1024  # bytes in one direction that the receiver has not taken: yamux's first window
STALL_SECONDS = 0.5  # between looks at whether a peer that hears nothing hears again


@dataclass(frozen=True, slots=True)
class _Last:
    """What follows the last message; ``failure`` is an error frame's text.

    After a ``final`` one its sender reads no more, so nothing can be sent back either.
    """

    failure: str | None = None
    final: bool = False


_CANCEL: Final = _Last("cancelled", final=True)


class Pipe:
    """One direction. ``delay()`` gives each item's seconds on the way; order is kept.

    While ``is_stalled()`` nothing arrives; what is on the way comes later.
    """

    def __init__(self, delay: Callable[[], float], is_stalled: Callable[[], bool]) -> None:
        self._delay = delay
        self._is_stalled = is_stalled
        self._in_flight: deque[bytes | _Last] = deque()
        self._arrived: deque[bytes | _Last] = deque()
        self._unread = 0
        self._changed = asyncio.Event()
        self.broken = False
        self.back: Pipe | None = None  # the other direction, which ends with this one

    def write(self, item: bytes | _Last) -> None:
        if self.broken:
            return
        self._in_flight.append(item)
        self._unread += len(item) if isinstance(item, bytes) else 0
        asyncio.get_running_loop().call_later(self._delay(), self._arrive)

    async def drained(self) -> None:
        """Wait until no more than a window is unread. Raises ``StreamReset``."""
        while self._unread > WINDOW and not self.broken:
            await self._change()
        if self.broken:
            raise StreamReset("the stream was closed by the other end while we were sending")

    async def read(self) -> bytes | _Last:
        while not self._arrived:
            if self.broken:
                raise StreamReset("the stream or its connection ended before the call did")
            await self._change()
        item = self._arrived.popleft()
        if isinstance(item, bytes):
            self._unread -= len(item)
            self._changed.set()
        return item

    def break_off(self) -> None:
        """What is on the way is lost; what has arrived can still be read."""
        self.broken = True
        self._in_flight.clear()
        self._changed.set()

    def _arrive(self) -> None:
        if not self._in_flight:
            return
        if self._is_stalled():
            asyncio.get_running_loop().call_later(STALL_SECONDS, self._arrive)
            return
        item = self._in_flight.popleft()
        if item is _CANCEL:
            self.break_off()
        else:
            self._arrived.append(item)
            self._changed.set()
        if isinstance(item, _Last) and item.final and self.back is not None:
            self.back.break_off()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class MemoryStream:
    """``ports.Stream`` for one end; ``pair`` makes both."""

    def __init__(self, remote_peer: PeerId, inbound: Pipe, outbound: Pipe, *, is_caller: bool) -> None:
        self._remote_peer = remote_peer
        self._inbound = inbound
        self._outbound = outbound
        self._is_caller = is_caller
        self._said_end = False
        self._closed = False
        self._outcome: _Last | None = None

    @property
    def done(self) -> bool:
        """Closed on this side, whatever the other does."""
        return self._closed

    @property
    def remote_peer(self) -> PeerId:
        return self._remote_peer

    async def receive(self) -> bytes | None:
        if self._outcome is None:
            if self._closed:
                raise StreamReset("the stream was closed on this side")
            item = await self._inbound.read()
            if isinstance(item, bytes):
                return item
            self._outcome = item
        if self._outcome.failure is not None:
            raise RpcError(self._outcome.failure)
        return None

    async def send(self, message: bytes) -> None:
        if self._said_end:
            raise UsageError("send() after end(): the other end was told that no message follows")
        if self._closed or self._outbound.broken:
            raise StreamReset("the stream is closed, nothing can be sent")
        self._outbound.write(bytes(message))
        await self._outbound.drained()

    async def end(self) -> None:
        if not self._is_caller:
            raise UsageError("end() is the caller's; a callee ends a stream by close()")
        if not (self._said_end or self._closed):
            self._said_end = True
            self._outbound.write(_Last())

    async def close(self) -> None:
        self._finish(_CANCEL if self._is_caller else _Last(final=True))

    def fail(self, text: str) -> None:
        """Callee only: an error frame instead of an end."""
        self._finish(_Last(text, final=True))

    def break_off(self) -> None:
        """The connection is gone."""
        self._inbound.break_off()
        self._outbound.break_off()

    async def linger(self, seconds: float) -> None:
        """Callee only: wait for the caller's end, so that it can still send without an error."""
        try:
            async with asyncio.timeout(seconds):
                while await self.receive() is not None:
                    pass
        except (TimeoutError, KwaaiNetError):
            pass

    def _finish(self, item: _Last) -> None:
        if not self._closed:
            self._closed = True
            self._outbound.write(item)
            self._inbound.break_off()


def pair(
    caller: PeerId, callee: PeerId, delay: Callable[[], float], is_stalled: Callable[[], bool]
) -> tuple[MemoryStream, MemoryStream]:
    """The caller's end and the callee's."""
    forth, back = Pipe(delay, is_stalled), Pipe(delay, is_stalled)
    forth.back, back.back = back, forth
    return (
        MemoryStream(callee, back, forth, is_caller=True),
        MemoryStream(caller, forth, back, is_caller=False),
    )

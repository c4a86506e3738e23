"""What waits to be served in one session: its stream's messages, and the steps other servers push.

Rule of the file: nothing waits without a bound. The stream is left unread while enough of it waits,
so that its sender feels it; a pushed step too many is dropped, for the client sends it as well.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from ..errors import UNAVAILABLE, KwaaiNetError, RequestError
from ..ports import Stream
from ..wire.messages import ExpertRequest

T = TypeVar("T")

PIPELINED = 4  # messages read ahead of the one being served
READ_AHEAD = 8 << 20  # bytes of them after which no further one is read
MAX_PUSHED = 4  # pushed steps that wait; a client waits for each of its steps


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message of the stream (``None`` is its end), or a step that was pushed; ``size`` in bytes."""

    message: bytes | None
    pushed: ExpertRequest | None = None
    size: int = 0


class Inbox:
    """First come, first served. Use as an async context: a task of its own reads the stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._waiting: deque[Arrival] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.ensure_future(self._read())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.cancel()
        await asyncio.wait([self._reader])
        self._failure.cancel()

    def is_open(self) -> bool:
        """Whether the caller is, as far as is known, still there."""
        return not self._failure.done()

    def fail(self, error: KwaaiNetError) -> None:
        """Make ``receive`` raise this, now and from now on."""
        if not self._failure.done():
            self._failure.set_exception(error)
            self._failure.exception()  # looked at, even if nobody waits for it any more
            self._changed.set()

    def push(self, request: ExpertRequest, size: int) -> bool:
        """Queue a pushed step of so many bytes; false if it had to be dropped."""
        pushed = sum(arrival.pushed is not None for arrival in self._waiting)
        if pushed >= MAX_PUSHED or self._bytes() + size > READ_AHEAD:
            return False
        self._add(Arrival(None, request, size))
        return True

    async def receive(self, timeout: float) -> Arrival:
        """What came first; ``RequestError`` if nothing comes in time; what ``fail`` was given."""
        try:
            async with asyncio.timeout(timeout):
                while self.is_open() and not self._waiting:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise RequestError(
                f"{UNAVAILABLE}no request came for {timeout:g} s, so it closed the session"
            ) from None
        if not self.is_open():
            self._failure.result()
        arrival = self._waiting.popleft()
        self._room.set()
        return arrival

    async def unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, which is cancelled when the caller leaves; then raises as ``receive``."""
        task = asyncio.ensure_future(work)
        try:
            waiting: list[asyncio.Future[Any]] = [task, self._failure]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self._failure.result()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    async def _read(self) -> None:
        try:
            while True:
                while len(self._waiting) >= PIPELINED or self._bytes() >= READ_AHEAD:
                    self._room.clear()
                    await self._room.wait()
                message = await self._stream.receive()
                self._add(Arrival(message, size=len(message or b"")))
                if message is None:
                    return
        except KwaaiNetError as error:
            self.fail(error)

    def _add(self, arrival: Arrival) -> None:
        self._waiting.append(arrival)
        self._changed.set()

    def _bytes(self) -> int:
        return sum(arrival.size for arrival in self._waiting)

"""``ports.Stream`` over messages to the network worker.

Rule of the file: what has arrived is read before an ending is noticed; the windows bound what either
worker holds for the other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ..errors import KwaaiNetError, StreamReset, UsageError
from ..types import PeerId
from .messages import FRAME_HEADER_SIZE, STREAM_WINDOW, NodeToNetwork

CREDIT_STEP = STREAM_WINDOW // 4  # bytes taken before they are worth a message


class BrowserStream:
    """One end of a stream RPC; ``BrowserHost`` makes it and feeds it what arrives."""

    def __init__(
        self, number: int, remote_peer: PeerId, post: Callable[[NodeToNetwork], None], *, is_caller: bool
    ) -> None:
        self._number, self._remote_peer, self._post, self._is_caller = number, remote_peer, post, is_caller
        self._inbox: deque[bytes] = deque()
        self._ended = False  # the other end has said it is done
        self._failure: KwaaiNetError | None = None
        self._said_end = False
        self._over = False  # an ending was said, by either side: nothing can be sent
        self._window = STREAM_WINDOW
        self._taken = 0
        self._changed = asyncio.Event()

    @property
    def remote_peer(self) -> PeerId:
        """See ``ports.Stream``."""
        return self._remote_peer

    async def receive(self) -> bytes | None:
        """See ``ports.Stream``."""
        while not self._inbox:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return None
            await self._change()
        body = self._inbox.popleft()
        self._take(FRAME_HEADER_SIZE + len(body))
        return body

    async def send(self, message: bytes) -> None:
        """See ``ports.Stream``."""
        if self._said_end:
            raise UsageError("send() after end(): the other end was told that no message follows")
        while self._window <= 0 and not self._over:
            await self._change()
        if self._over:
            raise self._failure or StreamReset("the stream is closed, nothing can be sent")
        self._window -= FRAME_HEADER_SIZE + len(message)
        self._post({"type": "data", "id": self._number, "body": message})

    async def end(self) -> None:
        """See ``ports.Stream``."""
        if not self._is_caller:
            raise UsageError("end() is the caller's; a callee ends a stream by close()")
        if not (self._said_end or self._over):
            self._said_end = True
            self._post({"type": "end", "id": self._number})

    async def close(self) -> None:
        """See ``ports.Stream``."""
        self.close_now()

    def close_now(self) -> None:
        """``close`` for those who cannot wait."""
        if not self._over:
            if self._is_caller:
                self._post({"type": "cancel", "id": self._number, "reason": "the caller gave up"})
            else:
                self._post({"type": "close", "id": self._number})
        self._finish(StreamReset("the stream was closed on this side"))

    def refuse(self, text: str) -> None:
        """Callee only: an error frame instead of an end."""
        if not self._over:
            self._post({"type": "fault", "id": self._number, "error": "RpcError", "message": text})
        self._finish(StreamReset("the stream was closed on this side"))

    # --- what arrives -----------------------------------------------------------------------------

    def on_data(self, body: bytes) -> None:
        """One message."""
        self._inbox.append(body)
        self._changed.set()

    def on_credit(self, size: int) -> None:
        """The network worker has sent so many bytes."""
        self._window += size
        self._changed.set()

    def on_end(self) -> None:
        """The caller has no more messages; we may still answer."""
        self._ended = True
        self._changed.set()

    def on_close(self) -> None:
        """The callee is done."""
        self._ended = self._over = True
        self._changed.set()

    def on_failure(self, error: KwaaiNetError) -> None:
        """The stream broke, or the other end says that it failed."""
        self._finish(error)

    def _finish(self, failure: KwaaiNetError) -> None:
        self._over = True
        if self._failure is None and not (self._ended and self._is_caller):
            self._failure = failure
        self._changed.set()

    def _take(self, size: int) -> None:
        self._taken += size
        if self._taken >= CREDIT_STEP and not self._over:
            self._post({"type": "credit", "id": self._number, "bytes": self._taken})
            self._taken = 0

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

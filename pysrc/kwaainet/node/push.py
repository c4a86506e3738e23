"""Steps that servers push to one another: those that come for our sessions, those we send on.

Follows Petals' ``server/handler.py`` (rpc_push, _put_into_session_queue, _push_outputs). Rule of the
file: a push only saves time. The client sends every step itself, so whatever goes wrong here is
counted and forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ..errors import KwaaiNetError
from ..inference.push import Onward, SessionKey
from ..ports import Host
from ..types import PeerId
from ..wire.messages import ExpertRequest, Tensor
from ..wire.rpc import MAX_UNARY_SIZE
from .inbox import Inbox

log = logging.getLogger(__name__)

PUSH = "TransformerConnectionHandler.rpc_push"
EARLY_SECONDS = 10.0  # a push waits so long for its session to be opened
MAX_EARLY = 64  # pushes that wait so, of all peers
MAX_EARLY_BYTES = 16 << 20
PUSH_TIMEOUT = 10.0  # seconds; by then the client's own copy has long arrived
MAX_QUEUED = 4  # outputs of one session waiting for the push before them
MAX_FAILURES = 3  # in a row, after which a session gives up pushing: that server cannot be reached from here
MAX_PUSH_SIZE = MAX_UNARY_SIZE - 1024  # bytes; the envelope takes the rest


@dataclass(slots=True)
class PushCounts:
    """``taken`` went to a session, ``early`` were kept for one, ``dropped`` found its queue full or
    were no step of it; ``sent`` arrived, ``failed`` did not, ``skipped`` were too large or too many."""

    taken: int = 0
    early: int = 0
    dropped: int = 0
    sent: int = 0
    failed: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Early:
    key: SessionKey
    request: ExpertRequest
    size: int


class PushedSteps:
    """Brings each pushed step to the session it is for."""

    def __init__(self) -> None:
        self.counts = PushCounts()
        self._inboxes: dict[SessionKey, Inbox] = {}
        self._early: dict[_Early, asyncio.TimerHandle] = {}  # oldest first

    def deliver(self, key: SessionKey, request: ExpertRequest, size: int) -> None:
        """To the session if it runs; else it is kept for a while, as its stream may still be on its way."""
        inbox = self._inboxes.get(key)
        if inbox is None:
            self._keep(_Early(key, request, size))
        elif inbox.push(request, size):
            self.counts.taken += 1
        else:
            self.counts.dropped += 1

    @contextmanager
    def session(self, key: SessionKey, inbox: Inbox) -> Iterator[None]:
        """While inside, steps for ``key`` go to ``inbox``; of two sessions with one key the later has it."""
        self._inboxes[key] = inbox
        for early in [early for early in self._early if early.key == key]:
            self._forget(early)
            self.deliver(key, early.request, early.size)
        try:
            yield
        finally:
            if self._inboxes.get(key) is inbox:
                del self._inboxes[key]

    def _keep(self, early: _Early) -> None:
        self.counts.early += 1
        timer = asyncio.get_running_loop().call_later(EARLY_SECONDS, self._forget, early)
        self._early[early] = timer
        while len(self._early) > MAX_EARLY or sum(kept.size for kept in self._early) > MAX_EARLY_BYTES:
            self._forget(next(iter(self._early)))

    def _forget(self, early: _Early) -> None:
        self._early.pop(early).cancel()


class Pusher:
    """Sends one session's outputs on, one after the other. Use as an async context: what is still on
    its way when the session ends is given up.

    ``deliver`` is our own rpc_push, for a chain that comes through us twice.
    """

    def __init__(
        self, host: Host, deliver: Callable[[PeerId, bytes], Awaitable[object]], counts: PushCounts
    ) -> None:
        self._host, self._deliver, self._counts = host, deliver, counts
        self._queue: deque[tuple[Onward, Tensor]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._failures = 0  # in a row

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def send(self, onward: Onward, output: Tensor) -> None:
        """Returns at once."""
        if len(self._queue) >= MAX_QUEUED or self._failures >= MAX_FAILURES:
            self._counts.skipped += 1
            return
        self._queue.append((onward, output))
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._send_all())

    async def _send_all(self) -> None:
        while self._queue:
            onward, output = self._queue.popleft()
            message = onward.request(output).encode()
            if len(message) > MAX_PUSH_SIZE:
                self._counts.skipped += 1
                continue
            try:
                await self._send(onward.peer, message)
            except (KwaaiNetError, TimeoutError) as error:
                self._counts.failed += 1
                self._failures += 1
                log.debug("pushing to %s failed: %s", onward.peer, error or "no answer in time")
            else:
                self._counts.sent += 1
                self._failures = 0

    async def _send(self, peer: PeerId, message: bytes) -> None:
        if peer == self._host.peer_id:
            await self._deliver(peer, message)
        else:
            await self._host.call(peer, PUSH, message, timeout=PUSH_TIMEOUT)

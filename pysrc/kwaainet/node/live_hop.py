"""One hop of a running session: its stream, what is out on it, and how it ended.

Rule of the file: reading never stops, so that a server that leaves is noticed while nothing is asked
of it; after a failure nothing is sent any more and everybody who waits hears of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from ..errors import (
    HandshakeError,
    KwaaiNetError,
    ProtocolError,
    RpcError,
    StreamReset,
    Unreachable,
    says_unavailable,
)
from ..inference.chain import HopSession, NextServer, Step
from ..ports import Floats, Stream
from ..swarm.health import Reason
from ..swarm.routing import Hop

log = logging.getLogger(__name__)

FAREWELL_SECONDS = 0.2  # after a failed send: how long a reason may still be on its way to us
CLOSE_SECONDS = 2.0  # to end a session in an orderly way


def loss_reason(error: KwaaiNetError) -> Reason | None:
    """Why the server must be replaced, or ``None`` for an error that the caller has to see.

    Only a server that vanished, is silent, says itself that another should serve, or answers what cannot
    be right is replaced; any other error it reports would be the same elsewhere.
    """
    match error:
        case RpcError():
            return Reason.UNAVAILABLE if says_unavailable(str(error)) else None
        case HandshakeError():
            return Reason.UNAVAILABLE
        case StreamReset() | Unreachable():
            return Reason.GONE
        case ProtocolError():
            return Reason.FAULTY
    return None


class LiveHop:
    """``hop`` served over ``stream``; ``machine`` writes the requests. Close it."""

    def __init__(self, hop: Hop, stream: Stream, machine: HopSession) -> None:
        self.hop = hop
        self.machine = machine
        self.position = 0  # positions that the server's cache holds once it has answered all steps
        self.fresh = True  # it has answered nothing yet
        self.blameless = False  # it is given up for a reason of our own
        self.replayed_in: str | None = None  # the step during which the history was replayed into it
        self.failure: KwaaiNetError | None = None
        self.reason: Reason | None = None  # for which it must be replaced; None: its caller has to see why
        self.on_failure: Callable[[], None] = lambda: None
        self._stream = stream
        self._awaited: tuple[str, asyncio.Future[Floats]] | None = None  # the last step and its answer
        self._due: deque[tuple[tuple[int, ...], asyncio.Future[Floats]]] = deque()
        self._reader = asyncio.ensure_future(self._read())

    @property
    def next_server(self) -> NextServer:
        """As an earlier hop's metadata names this one."""
        blocks = self.hop.blocks
        return (str(self.hop.peer), self.machine.session_id, blocks.start, blocks.end)

    def awaits(self, step: Step) -> asyncio.Future[Floats] | None:
        """The answer of this step, if it is expected already."""
        return self._awaited[1] if self._awaited and self._awaited[0] == step.step_id else None

    def expect(self, shape: tuple[int, ...], step: Step) -> asyncio.Future[Floats]:
        """The answer of a step to come, of this shape; steps are answered in order."""
        answer: asyncio.Future[Floats] = asyncio.get_running_loop().create_future()
        if self.failure is not None:
            _fail(answer, self.failure)
        else:
            self._due.append((shape, answer))
        self.position = step.position + shape[1]
        self._awaited = (step.step_id, answer)
        return answer

    async def send(self, hidden: Floats, step: Step, next_servers: Sequence[NextServer] = ()) -> None:
        """Send one step. Raises why the hop failed, if it has."""
        if self.failure is not None:
            raise self.failure
        try:
            await self._stream.send(self.machine.request(hidden, step, next_servers))
        except StreamReset as error:
            await asyncio.wait([self._reader], timeout=FAREWELL_SECONDS)  # it may say why
            self.fail(error)
            raise self.failure or error from None

    def fail(self, error: KwaaiNetError, reason: Reason | None = None) -> None:
        """Nothing more is to be had here; the first error counts."""
        if self.failure is None:
            self.failure = error
            self.reason = reason or loss_reason(error)
            self.on_failure()
        self._reader.cancel()
        while self._due:
            _fail(self._due.popleft()[1], self.failure)

    def retire(self, why: str) -> None:
        """Give it up though it did nothing wrong."""
        self.blameless = True
        self.fail(StreamReset(why))

    async def close(self) -> None:
        """End the session; a server that is gone already does not matter. Never raises.

        A server that owes no answer is awaited: giving the stream up could beat what was said on it.
        """
        failed, owed = self.failure is not None, bool(self._due)
        self.fail(StreamReset("the session was closed on this side"))
        try:
            if not failed:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._stream.send(self.machine.end())
                    await self._stream.end()
                    if self.machine.opened and not owed:
                        await self._ended()
        except (KwaaiNetError, TimeoutError) as error:
            log.debug("ending a session at %s: %s", self.hop.peer, error)
        finally:
            await self._stream.close()

    async def _ended(self) -> None:
        await asyncio.wait([self._reader])  # two cannot read a stream
        while await self._stream.receive() is not None:
            pass

    async def _read(self) -> None:
        try:
            while True:
                message = await self._stream.receive()
                if message is None:
                    raise StreamReset("it ended the session without an answer")
                if not self._due:
                    raise ProtocolError("it answered a step that was not sent")
                shape, answer = self._due[0]
                hidden = self.machine.answer(message, shape)
                self._due.popleft()
                if not answer.done():
                    answer.set_result(hidden)
        except KwaaiNetError as error:
            self.fail(error)


def _fail(answer: asyncio.Future[Floats], error: KwaaiNetError) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # looked at, even if nobody waits for it any more

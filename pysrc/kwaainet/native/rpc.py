"""Hivemind's unary and stream RPCs over the host's streams: both sides of both.

Rule of the file: bytes and meaning are ``wire.rpc``'s; here is only who waits for what, and that a
caller always learns why its call failed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import TypeAlias

from ..errors import KwaaiNetError, LimitExceeded, ProtocolError, RpcError, StreamReset
from ..ports import StreamHandler, UnaryHandler
from ..types import PeerId
from ..wire.rpc import (
    Cancelled,
    Failed,
    Message,
    StreamAnswerer,
    StreamCaller,
    UnaryAnswerer,
    UnaryCaller,
)
from .stream import RawStream

logger = logging.getLogger(__name__)

CALL_ID_SIZE = 16
END_SECONDS = 2.0  # how long a callee that is done waits for its caller to be
REQUEST_SECONDS = 60.0  # how long the request of a unary call, 4 MiB at most, may take to arrive
MAX_HELD = 512 << 20  # bytes of unfinished messages, all streams of a host together
MAX_HELD_PER_PEER = MAX_HELD // 4
_INTERNAL = "internal error"

Told: TypeAlias = Callable[[str, float, bool], None]  # protocol, seconds, whether it was answered


class Budget:
    """Counts the bytes of messages that have not arrived whole."""

    def __init__(self, limit: int = MAX_HELD, limit_per_peer: int = MAX_HELD_PER_PEER) -> None:
        self._left = limit
        self._limit_per_peer = limit_per_peer
        self._held: Counter[PeerId] = Counter()

    def take(self, peer: PeerId, size: int) -> None:
        """Raises ``LimitExceeded`` if there is no room for so many more."""
        if size > self._left:
            raise LimitExceeded("too many unfinished messages are waiting here; try again later")
        if self._held[peer] + size > self._limit_per_peer:
            raise LimitExceeded(f"over {self._limit_per_peer} bytes of unfinished messages are yours")
        self._left -= size
        self._held[peer] += size

    def give_back(self, peer: PeerId, size: int) -> None:
        """So many are not held any more."""
        self._left += size
        self._held[peer] -= size
        if not self._held[peer]:
            del self._held[peer]


class RpcStream:
    """``ports.Stream`` over a raw stream; the machine says which side this is. ``told`` hears of each
    step as it ends: from the first message that asks to the first that then answers, or to a failure."""

    def __init__(
        self, raw: RawStream, machine: StreamCaller | StreamAnswerer, budget: Budget, told: Told | None = None
    ) -> None:
        self._raw = raw
        self._told = told
        self._asks = isinstance(machine, StreamCaller)
        self._asked_at: float | None = None  # when the step under way began
        self._last_asked = False  # the last message is sent: it may be a farewell, which nobody answers
        self._budget = budget
        self._held = 0
        self._machine = machine
        self._done = False  # the other end has said so
        self._input_over = False
        self._closed = False

    @property
    def remote_peer(self) -> PeerId:
        return self._raw.remote_peer

    async def receive(self) -> bytes | None:
        try:
            message = await self._receive()
        except KwaaiNetError:
            self._answered(well=False)
            raise
        if message is not None and self._asks:
            self._answered()
        elif message is not None and self._asked_at is None:
            self._asked_at = monotonic()
        return message

    async def _receive(self) -> bytes | None:
        while not self._done:
            event = self._machine.next_event()
            if event is None and self._input_over:
                self._done = True
            elif event is None:
                await self._receive_more()
            elif isinstance(event, Message):
                self._release(min(self._held, len(event.data)))
                return event.data
            elif isinstance(event, Cancelled):
                raise StreamReset(f"{self.remote_peer} left before its {self._raw.protocol} call was over")
            else:
                self._done = True
                if isinstance(event, Failed):
                    raise RpcError(event.text)
        return None

    async def send(self, message: bytes) -> None:
        if self._closed:
            raise StreamReset(f"this {self._raw.protocol} stream is closed on this side")
        self._machine.send(message)
        if not self._asks:
            self._answered()
        elif self._asked_at is None:
            self._asked_at = monotonic()
        self._flush()
        await self._raw.drain()

    async def end(self) -> None:
        if isinstance(self._machine, StreamCaller):
            self._last_asked = True
            self._machine.end()
            self._flush()
            await self._raw.drain()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._asks and not self._last_asked:
            self._answered(well=False)
        if isinstance(self._machine, StreamCaller):
            if self._done:
                self._raw.close()
            else:
                self._raw.reset()
        else:
            self._machine.finish()
            await self._linger()
            self._raw.close()
        self._release(self._held)

    def fail(self, text: str) -> None:
        """Callee only: end with an error frame, if it can still be sent."""
        if isinstance(self._machine, StreamAnswerer) and not self._closed:
            self._answered(well=False)
            try:
                self._machine.fail(text)
                self._flush()
            except KwaaiNetError:
                logger.debug("the error %r came too late for %s", text, self.remote_peer)

    async def gone(self) -> None:
        """Wait until the other end has left."""
        if not self._input_over:
            left = asyncio.Event()
            self._raw.on_gone = left.set
            await left.wait()

    async def _receive_more(self) -> None:
        data = await self._raw.read()
        try:
            if data:
                self._budget.take(self.remote_peer, len(data))
                self._held += len(data)
                self._machine.receive_data(data)
            else:
                self._input_over = True
                self._machine.receive_eof()
        except ProtocolError:
            if isinstance(self._machine, StreamAnswerer):  # who can still be told what was wrong
                self._input_over = self._done = True
            else:
                self._raw.reset()
            raise

    def _answered(self, *, well: bool = True) -> None:
        """The step under way, if there is one, is over."""
        if self._asked_at is not None and self._told is not None:
            self._told(self._raw.protocol, monotonic() - self._asked_at, well)
        self._asked_at = None

    def _release(self, size: int) -> None:
        self._held -= size
        self._budget.give_back(self.remote_peer, size)

    async def _linger(self) -> None:
        """Wait for the caller's end: closing before it has sent it would break its pipe."""
        try:
            async with asyncio.timeout(END_SECONDS):
                while await self.receive() is not None:
                    pass
        except (KwaaiNetError, TimeoutError):
            return

    def _flush(self) -> None:
        self._raw.write(self._machine.data_to_send())


async def serve_stream(stream: RpcStream, handler: StreamHandler) -> None:
    """Run a stream handler to its end, whatever it is."""
    try:
        await handler(stream)
    except StreamReset as error:
        logger.info("%s", error)
        stream.fail(str(error))
    except KwaaiNetError as error:
        stream.fail(str(error) or type(error).__name__)
    except Exception:
        logger.exception("a stream handler failed on a call of %s", stream.remote_peer)
        stream.fail(_INTERNAL)
    await stream.close()


async def serve_unary(raw: RawStream, handler: UnaryHandler) -> None:
    """Answer one unary call; the caller's leaving cancels the handler."""
    machine = UnaryAnswerer()
    async with asyncio.timeout(REQUEST_SECONDS):
        while (event := machine.next_event()) is None:
            data = await raw.read()
            if data:
                machine.receive_data(data)
            else:
                machine.receive_eof()
    if not isinstance(event, Message):
        raw.reset()
        return
    task = asyncio.current_task()
    raw.on_gone = task.cancel if task is not None else None
    try:
        reply = await handler(raw.remote_peer, event.data)
        machine.respond(reply)
    except KwaaiNetError as error:
        machine.fail(repr(error))
    except Exception:
        logger.exception("%s failed on a call of %s", raw.protocol, raw.remote_peer)
        machine.fail(_INTERNAL)
    finally:
        raw.on_gone = None
    raw.write(machine.data_to_send())
    raw.close()


async def call_unary(raw: RawStream, peer: PeerId, request: bytes) -> bytes:
    """One unary call over a fresh stream. Raises ``RpcError``, ``StreamReset``, ``ProtocolError``."""
    machine = UnaryCaller(secrets.token_bytes(CALL_ID_SIZE), peer.data, raw.protocol, request)
    try:
        raw.write(machine.data_to_send())
        while (event := machine.next_event()) is None:
            data = await raw.read()
            if data:
                machine.receive_data(data)
            else:
                machine.receive_eof()
    except BaseException:
        raw.reset()
        raise
    raw.close()
    if isinstance(event, Message):
        return event.data
    if isinstance(event, Failed):
        raise RpcError(event.text)
    raise StreamReset(f"{peer} closed its {raw.protocol} stream without a reply")

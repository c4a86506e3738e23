"""Serves one ``rpc_inference`` stream: carries out what the session's machine commands.

Follows Petals' ``server/handler.py`` (rpc_inference). Rule of the file: reading goes on while the
engine computes, so that a caller who leaves is noticed between runs and its cache is freed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from ..errors import KwaaiNetError, RequestError
from ..inference.session import Command, End, InferenceSession, OpenCache, Reorder, Reply, Run, Truncate
from ..ports import Stream
from ..wire.messages import ExpertRequest, ExpertResponse, Tensor
from .config import NodeConfig
from .span import ServedSpan, SpanCache

T = TypeVar("T")

PIPELINED = 4  # messages read ahead of the one being served


class Inbox:
    """The messages of a stream, read ahead by a task of its own. Use as an async context."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(PIPELINED)
        self._failure: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
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

    async def receive(self, timeout: float) -> bytes | None:
        """The next message or the end; ``RequestError`` if none comes in time; what ``fail`` was given."""
        getting = asyncio.ensure_future(self._queue.get())
        try:
            waiting: list[asyncio.Future[Any]] = [getting, self._failure]
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if self._failure.done():
                return self._failure.result()
            if not getting.done():
                raise RequestError(f"no request came for {timeout:g} s; the session is closed")
            return getting.result()
        finally:
            getting.cancel()

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
                message = await self._stream.receive()
                await self._queue.put(message)
                if message is None:
                    return
        except KwaaiNetError as error:
            self.fail(error)


class SessionServer:
    """One session on one stream; ``serve`` returns when it has ended and raises when it failed."""

    def __init__(
        self, stream: Stream, session: InferenceSession, span: ServedSpan, config: NodeConfig
    ) -> None:
        self._stream, self._session, self._span, self._config = stream, session, span, config
        self._cache: SpanCache | None = None

    async def serve(self) -> None:
        """Answer step by step. Raises the ``KwaaiNetError`` that the caller is to be told."""
        try:
            async with asyncio.timeout(self._config.session_timeout):
                async with AsyncExitStack() as resources, Inbox(self._stream) as inbox:
                    await self._answer_all(inbox, resources)
        except TimeoutError:
            limit = f"{self._config.session_timeout:g} s"
            raise RequestError(f"the session lasted {limit}, the longest allowed; open another") from None

    async def _answer_all(self, inbox: Inbox, resources: AsyncExitStack) -> None:
        while not self._session.ended:
            message = await inbox.receive(self._config.step_timeout)
            if message is None:
                return
            for command in self._session.receive(ExpertRequest.decode(message)):
                await self._carry_out(command, inbox, resources)

    async def _carry_out(self, command: Command, inbox: Inbox, resources: AsyncExitStack) -> None:
        match command:
            case OpenCache(blocks, batch, max_length, alloc_timeout):
                timeout = min(alloc_timeout, self._config.max_alloc_timeout)
                opening = self._span.open_cache(batch, max_length, timeout, blocks)
                self._cache = await inbox.unless_gone(resources.enter_async_context(opening))
                self._cache.on_lost = inbox.fail
            case Truncate(length):
                await self._open_cache().truncate(length)
            case Reorder(rows):
                await self._open_cache().reorder(rows)
            case Run(hidden, reply):
                output = await self._open_cache().run(hidden, inbox.is_open)
                await self._reply(reply.pack(output))
            case Reply(tensor):
                await self._reply(tensor)
            case End():
                pass

    def _open_cache(self) -> SpanCache:
        assert self._cache is not None, "the session's machine commands OpenCache first"
        return self._cache

    async def _reply(self, tensor: Tensor) -> None:
        await self._stream.send(ExpertResponse(tensors=(tensor,)).encode())

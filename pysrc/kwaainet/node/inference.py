"""Serves one ``rpc_inference`` stream: carries out what the session's machine commands.

Follows Petals' ``server/handler.py`` (rpc_inference). Rule of the file: reading goes on while the
engine computes, so that a caller who leaves is noticed between runs and its cache is freed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack

from ..errors import UNAVAILABLE, KwaaiNetError, RequestError
from ..inference.push import MAX_ID_LENGTH, MAX_REQUEST_ID
from ..inference.session import Command, End, InferenceSession, OpenCache, Reorder, Reply, Run, Truncate
from ..ports import Stream
from ..wire.messages import ExpertRequest, ExpertResponse, Tensor
from .config import NodeConfig
from .gradients import no_gradients
from .inbox import Arrival, Inbox
from .prompted import PromptedCache
from .push import PushedSteps, Pusher
from .receipts import Tally
from .runner import Runner, RunnerCache, Training

log = logging.getLogger(__name__)


class SessionServer:
    """One session on one stream; ``serve`` returns when it has ended and raises when it failed.

    Steps also come from ``pushed``, and outputs go on to the next server through ``pusher``. ``tally``
    counts what is computed and answered.
    """

    def __init__(
        self,
        stream: Stream,
        session: InferenceSession,
        span: Runner,
        config: NodeConfig,
        pushed: PushedSteps,
        pusher: Pusher,
        tally: Tally,
        training: Training | None = None,
    ) -> None:
        self._stream, self._session, self._span, self._config = stream, session, span, config
        self._pushed, self._pusher, self._tally, self._training = pushed, pusher, tally, training
        self._cache: RunnerCache | None = None

    async def serve(self) -> None:
        """Answer step by step. Raises the ``KwaaiNetError`` that the caller is to be told."""
        try:
            async with asyncio.timeout(self._config.session_timeout):
                async with AsyncExitStack() as resources, Inbox(self._stream) as inbox, self._pusher:
                    await self._answer_all(inbox, resources)
        except TimeoutError:
            limit = f"{self._config.session_timeout:g} s"
            raise RequestError(
                f"{UNAVAILABLE}the session lasted {limit}, the longest allowed; open another"
            ) from None

    async def _answer_all(self, inbox: Inbox, resources: AsyncExitStack) -> None:
        while not self._session.ended:
            arrival = await inbox.receive(self._config.step_timeout)
            if arrival.message is None and arrival.pushed is None:
                return
            self._tally.bytes_in += arrival.size
            for command in self._understand(arrival):
                await self._carry_out(command, inbox, resources)

    def _understand(self, arrival: Arrival) -> list[Command]:
        """Only the client's own messages can fail its session; a push that makes no sense is dropped."""
        if arrival.pushed is None:
            return self._session.receive(ExpertRequest.decode(arrival.message or b""))
        try:
            return self._session.receive_pushed(arrival.pushed)
        except KwaaiNetError as error:
            self._pushed.counts.dropped += 1
            log.debug("a pushed step is dropped: %s", error)
            return []

    async def _carry_out(self, command: Command, inbox: Inbox, resources: AsyncExitStack) -> None:
        match command:
            case OpenCache(blocks, batch, max_length, alloc_timeout):
                timeout = min(alloc_timeout, self._config.max_alloc_timeout)
                peer = self._stream.remote_peer
                opening = self._span.open_cache(batch, max_length, timeout, blocks, peer, self._request_id)
                self._cache = await inbox.unless_gone(resources.enter_async_context(opening))
                self._cache.on_lost = inbox.fail
                self._tally.blocks = self._session.blocks
                resources.callback(self._told())
                if self._session.key is not None:
                    resources.enter_context(self._pushed.session(self._session.key, inbox))
            case Truncate(length):
                await self._open_cache().truncate(length)
            case Reorder(rows):
                await self._open_cache().reorder(rows)
            case Run():
                await self._run(command, inbox)
            case Reply(tensor):
                await self._reply(tensor)
            case End():
                pass

    async def _run(self, run: Run, inbox: Inbox) -> None:
        if run.prompts is not None:
            if self._training is None:
                raise no_gradients()
            self._cache = PromptedCache(self._training, self._session.blocks, run.prompts)
        output = run.reply.pack(await self._open_cache().run(run.hidden, inbox.is_open))
        self._tally.tokens += run.hidden.shape[0] * run.hidden.shape[1]
        if run.onward is not None:
            self._pusher.send(run.onward, output)
        await self._reply(output)

    @property
    def _request_id(self) -> str:
        """What the session's id begins with, before a slash: all sessions of one request share it."""
        key = self._session.key
        return key[0].partition("/")[0][:MAX_REQUEST_ID] if key is not None else ""

    def _told(self) -> Callable[[], None]:
        """Log that the session begins, under its request's id; returns what logs that it ends."""
        key, peer = self._session.key, self._stream.remote_peer
        name = key[0][:MAX_ID_LENGTH] if key is not None else ""
        named = {"request_id": self._request_id}
        log.info("session %r of %s begins on blocks %s", name, peer, self._session.blocks, extra=named)

        def ended() -> None:
            log.info("session %r ends: %d tokens", name, self._tally.tokens, extra=named)

        return ended

    def _open_cache(self) -> RunnerCache:
        assert self._cache is not None, "the session's machine commands OpenCache first"
        return self._cache

    async def _reply(self, tensor: Tensor) -> None:
        message = ExpertResponse(tensors=(tensor,)).encode()
        await self._stream.send(message)
        self._tally.bytes_out += len(message)

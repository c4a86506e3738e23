"""Carries out what the scheduler says: the one task that gives a serving engine its work.

Rule of the file: what a run raises goes to the jobs of that run and to nobody else; there is a task
only while something waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..errors import DeviceLost, LocalError, StreamReset
from ..inference.scheduler import Job, Scheduler, Work
from ..ports import Engine, Floats
from ..types import PeerId
from .pacing import Pace

ROUNDS_OF_OTHERS = 8  # of the event loop: from a message to its request in line are about five


@dataclass(slots=True, eq=False)
class Request(Job):
    """A job with its input [rows, n, hidden], and where its output goes."""

    cache: int
    hidden: Floats
    is_wanted: Callable[[], bool]
    outputs: list[Floats] = field(default_factory=list)
    answer: asyncio.Future[Floats] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def take(self, tokens: int) -> Floats:
        """The next positions to be run."""
        done = self.hidden.shape[1] - self.tokens
        return np.ascontiguousarray(self.hidden[:, done : done + tokens])

    def fail(self, error: Exception) -> None:
        """Whoever waits gets this error."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Turns:
    """Runs requests on one engine. ``on_tokens`` hears how many were done (rows x positions), and
    ``on_lost`` that the device is gone, before those whose run it was. Between runs it rests as ``pace``
    says.
    """

    def __init__(
        self,
        engine: Engine,
        max_chunk: int,
        on_tokens: Callable[[int], None],
        on_lost: Callable[[DeviceLost], None],
        pace: Pace | None = None,
    ) -> None:
        self.engine, self._on_tokens, self._on_lost = engine, on_tokens, on_lost
        self._pace = pace or Pace()
        self.requests_done = 0
        self._scheduler: Scheduler[Request] = Scheduler(max_chunk)
        self._requests: set[Request] = set()
        self._task: asyncio.Task[None] | None = None
        self._added = asyncio.Event()

    async def run(
        self, session: object, peer: PeerId | None, cache: int, hidden: Floats, is_wanted: Callable[[], bool]
    ) -> Floats:
        """Append hidden's positions to a cache, n >= 1, when it is its turn.

        ``is_wanted`` is asked between the pieces of a prompt. Raises what the engine raises for this
        request, or ``StreamReset`` when nobody wants the rest. Cancelling takes it out of the line.
        """
        rows, tokens = hidden.shape[:2]
        request = Request(session, peer, rows, tokens, cache, hidden, is_wanted)
        self._requests.add(request)
        self._add(request)
        try:
            answer = await request.answer
            self.requests_done += 1
            return answer
        finally:
            self._requests.discard(request)
            self._scheduler.discard(request)

    def fail_all(self, error: Exception) -> None:
        """End whatever waits or runs; an engine that still computes does so for nobody."""
        for request in self._requests:
            self._scheduler.discard(request)
            request.fail(error)

    def forget(self, session: object) -> None:
        """The session has ended."""
        self._scheduler.forget(session)

    def look_again(self) -> None:
        """The pace has changed: a rest may be over."""
        self._added.set()

    def _add(self, request: Request) -> None:
        self._scheduler.add(request, asyncio.get_running_loop().time())
        self._added.set()
        if self._task is None:
            self._task = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                while (seconds := self._pace.rest(loop.time()) or self._scheduler.hold(loop.time())) > 0:
                    await self._more(seconds)
                work = self._scheduler.next(loop.time())
                if work is None:
                    return
                await self._carry_out(work)
                self._pace.worked(work.started, loop.time())
                self._scheduler.done(work, loop.time())
                for request in work.jobs:
                    self._go_on(request)
                # Those who got their results send them first, and what came meanwhile gets in line, to be
                # computed together: in a tab the engine computes in this thread.
                for _ in range(ROUNDS_OF_OTHERS):
                    await asyncio.sleep(0)
        finally:
            self._task = None

    async def _more(self, seconds: float) -> None:
        self._added.clear()
        adding = asyncio.ensure_future(self._added.wait())
        try:
            await asyncio.wait([adding], timeout=seconds)
        finally:
            adding.cancel()

    async def _carry_out(self, work: Work[Request]) -> None:
        try:
            await (self._run_steps(work) if work.is_round else self._run_chunk(work))
        except Exception as error:
            if isinstance(error, DeviceLost):
                self._on_lost(error)
            for request in work.jobs:
                request.fail(error)

    async def _run_steps(self, work: Work[Request]) -> None:
        steps = [(request.cache, request.take(1)) for request in work.jobs]
        results = await self.engine.run_many(steps)
        for request, result in zip(work.jobs, results, strict=True):
            if isinstance(result, LocalError):
                request.fail(result)
            else:
                request.outputs.append(result)
                self._on_tokens(request.rows)

    async def _run_chunk(self, work: Work[Request]) -> None:
        (request,) = work.jobs
        if request.outputs and not request.is_wanted():
            raise StreamReset("the caller left before its request was done")
        request.outputs.append(await self.engine.run(request.cache, request.take(work.tokens)))
        self._on_tokens(request.rows * work.tokens)

    def _go_on(self, request: Request) -> None:
        """After a piece: the answer, or the next piece."""
        if request.answer.done():
            return
        if request.tokens:
            self._add(request)
        elif len(request.outputs) == 1:
            request.answer.set_result(request.outputs[0])
        else:
            request.answer.set_result(np.concatenate(request.outputs, axis=1))

"""Gives Pyodide's event loop the queues of asyncio's own: JavaScript wakes Python once for all that is ready.

Pyodide's WebLoop asks JavaScript for a task for every callback, keeps every cancelled timer until it rings,
and refuses a timer of the past. Follows ``asyncio.base_events`` (``call_soon``, ``call_at``, ``_run_once``).
Rule of the file: only what a runtime does otherwise than asyncio documents, or dearer; no JavaScript.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import AbstractEventLoop, Handle, TimerHandle
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol

ROUNDS = 16  # over what is ready, each made ready by the one before, until JavaScript has its turn
MANY_CANCELLED = 64  # timers; then those that were cancelled are thrown out, if they are most


class Alarm(Protocol):
    """What JavaScript does for a loop, from a task of its own."""

    def wake(self) -> None:
        """Call ``Queues.turn`` soon, once."""

    def wake_in(self, seconds: float) -> None:
        """Call ``Queues.ring`` after so many seconds, about, and not when it was wished before."""


class Queues:
    """The ready callbacks and timers of ``loop``, whose own scheduling they replace.

    ``prepare`` is called before callbacks run.
    """

    def __init__(
        self, loop: AbstractEventLoop, alarm: Alarm, prepare: Callable[[], object] = lambda: None
    ) -> None:
        self._loop, self._alarm, self._prepare = loop, alarm, prepare
        self._ready: deque[Handle] = deque()
        self._timers: list[TimerHandle] = []
        self._cancelled = 0  # of the timers
        self._is_woken = self._in_turn = False
        self._armed: float | None = None  # when JavaScript will wake us, at the latest
        for name in ("call_soon", "call_later", "call_at", "create_future", "_timer_handle_cancelled"):
            setattr(loop, name, getattr(self, name))
        setattr(loop, "call_soon_threadsafe", self.call_soon)  # noqa: B010  # there is one thread

    def call_soon(
        self, callback: Callable[..., object], *arguments: Any, context: Context | None = None
    ) -> Handle:
        """See ``asyncio.loop.call_soon``."""
        handle = Handle(callback, arguments, self._loop, context)
        self._ready.append(handle)
        self._wake()
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *arguments: Any, context: Context | None = None
    ) -> TimerHandle:
        """See ``asyncio.loop.call_later``."""
        return self.call_at(self._loop.time() + delay, callback, *arguments, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *arguments: Any, context: Context | None = None
    ) -> TimerHandle:
        """See ``asyncio.loop.call_at``; a moment that has passed means soon."""
        timer = TimerHandle(when, callback, arguments, self._loop, context)
        heapq.heappush(self._timers, timer)
        timer._scheduled = True  # type: ignore[attr-defined]  # so that its cancelling is told
        self._arm()
        return timer

    def create_future(self) -> asyncio.Future[Any]:
        """See ``asyncio.loop.create_future``. Pyodide's own kind makes a callback more for each."""
        return asyncio.Future(loop=self._loop)

    def turn(self) -> None:
        """Run what is ready or due, and what that makes ready; later, where a task is running already."""
        self._is_woken = False
        if self._in_turn or asyncio.current_task(self._loop) is not None:
            return self._wake()
        self._in_turn = True
        self._prepare()
        try:
            self._take_due()  # once: a turn is short, and asking for the time is not cheap here
            for _ in range(ROUNDS):
                if not self._ready:
                    break
                for _ in range(len(self._ready)):
                    handle = self._ready.popleft()
                    if not handle.cancelled():
                        handle._run()
        finally:
            self._in_turn = False
            if self._ready:
                self._wake()
            self._arm()

    def ring(self) -> None:
        """A turn for the timers; one that is not due yet, as clocks differ, is waited for anew."""
        self._armed = None
        self.turn()

    def _wake(self) -> None:
        if not (self._is_woken or self._in_turn):
            self._is_woken = True
            self._alarm.wake()

    def _arm(self) -> None:
        """Have ourselves woken for the first timer, unless we will be."""
        if (
            self._timers
            and not self._in_turn
            and (self._armed is None or self._timers[0].when() < self._armed)
        ):
            self._armed = self._timers[0].when()
            self._alarm.wake_in(max(0.0, self._armed - self._loop.time()))

    def _take_due(self) -> None:
        now = self._loop.time()
        while self._timers and (self._timers[0].cancelled() or self._timers[0].when() <= now):
            timer = heapq.heappop(self._timers)
            timer._scheduled = False  # type: ignore[attr-defined]
            if timer.cancelled():
                self._cancelled -= 1
            else:
                self._ready.append(timer)

    def _timer_handle_cancelled(self, timer: TimerHandle) -> None:
        self._cancelled += 1
        if self._cancelled > MANY_CANCELLED and 2 * self._cancelled > len(self._timers):
            self._timers = [one for one in self._timers if not one.cancelled()]
            heapq.heapify(self._timers)
            self._cancelled = 0

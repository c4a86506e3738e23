"""An asyncio event loop on a virtual clock: waiting takes no time and no test depends on the machine.

Whenever every task waits, the clock jumps to the next timer. The loop uses neither sockets nor
``asyncio.run``, so it also works inside Pyodide, where another loop is already running.
Rule of the file: what a test leaves behind (a deadlock, an exception nobody looked at, a task that
will not end) is an error of that test.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, NoReturn, TypeVar

from ..errors import UsageError

T = TypeVar("T")

EPOCH = 1_700_000_000.0  # virtual unix time at which every run starts
MAX_SECONDS = 7 * 86_400.0  # virtual; a run that gets here waits for something that never comes
CLEAN_UP_SECONDS = 3600.0  # virtual; what cancelled tasks may take to end
MAX_IDLE_TURNS = 1_000_000  # turns of the loop without the clock moving: tasks that only spin


def run(main: Coroutine[Any, Any, T], *, max_seconds: float = MAX_SECONDS) -> T:
    """Run ``main`` to its end on a fresh virtual clock and return its result.

    Afterwards leftover tasks are cancelled and async generators closed. Raises what ``main``
    raises; else the first exception of a task or callback that nobody retrieved; ``UsageError``
    for a deadlock or a run of more than ``max_seconds`` virtual seconds.
    """
    loop = VirtualLoop(max_seconds)
    with _outer_loop_set_aside():
        try:
            try:
                result = loop.run_until_complete(loop.create_task(main, name="main"))
            finally:
                _clean_up(loop)
        finally:
            loop.close()
    loop.raise_unseen()
    return result


def now() -> float:
    """Virtual unix seconds; only inside ``run``."""
    loop = asyncio._get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise UsageError(f"now() needs the virtual clock of testing.clock.run, not {loop!r}")
    return EPOCH + loop.time()


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop behind ``run``. ``time()`` starts at 0 and jumps from timer to timer."""

    def __init__(self, max_seconds: float = MAX_SECONDS) -> None:
        super().__init__()
        self._selector = _Jump(self)
        self._seconds = 0.0
        self._last_second = max_seconds
        self._idle_turns = 0
        self._unseen: list[BaseException] = []
        self._tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self.set_exception_handler(VirtualLoop._note)
        self.set_task_factory(VirtualLoop._make_task)

    def time(self) -> float:
        return self._seconds

    def jump(self, seconds: float | None) -> None:
        """Called where a real loop would sleep: ``None`` means that no timer is left."""
        if seconds is None:
            self._fail("deadlock: nothing is scheduled and every task waits")
        if seconds <= 0:
            self._idle_turns += 1
            if self._idle_turns > MAX_IDLE_TURNS:
                self._fail(f"{MAX_IDLE_TURNS} turns without the clock moving: something spins")
            return
        self._idle_turns = 0
        self._seconds += seconds
        if self._seconds > self._last_second:
            self._fail(f"still running after {self._last_second:g} virtual seconds")

    def grant(self, seconds: float) -> None:
        """Allow this much more time, so that a run that failed can still be cleaned up."""
        self._idle_turns = 0
        self._last_second = self._seconds + seconds

    def raise_unseen(self) -> None:
        """Raise the first exception that nobody retrieved, if there is one."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and getattr(task, "_log_traceback", False):
                failure = task.exception()
                if failure is not None:
                    failure.add_note(f"nobody awaited {task.get_name()}, which raised this")
                    self._unseen.append(failure)
        if self._unseen:
            raise self._unseen[0]

    def _fail(self, what: str) -> NoReturn:
        waiting = [f"  {task.get_name()} at {_position(task)}" for task in asyncio.all_tasks(self)]
        raise UsageError("\n".join([what, *sorted(waiting)]))

    @staticmethod
    def _note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        assert isinstance(loop, VirtualLoop)
        failure = context.get("exception")
        if failure is None:
            task = context.get("task")
            which = f" ({task.get_name()} at {_position(task)})" if isinstance(task, asyncio.Task) else ""
            failure = UsageError(f"{context.get('message')}{which}")
        loop._unseen.append(failure)

    @staticmethod
    def _make_task(
        loop: asyncio.AbstractEventLoop,
        coroutine: Any,
        *,
        context: Context | None = None,
        **options: Any,
    ) -> asyncio.Task[Any]:
        assert isinstance(loop, VirtualLoop)
        task = asyncio.Task(coroutine, loop=loop, context=context, **options)
        loop._tasks.add(task)
        return task

    def _process_events(self, event_list: list[Any]) -> None:
        """There are no file descriptors, hence no events."""

    def _write_to_self(self) -> None:
        """Nobody has to be woken: the loop never sleeps."""

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> NoReturn:  # type: ignore[override]
        raise UsageError(f"{func!r} asks for a thread, which has no place on a virtual clock")


class _Jump:
    """Stands where a selector would: instead of sleeping, the clock moves."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = weakref.ref(loop)

    def select(self, timeout: float | None) -> list[Any]:
        loop = self._loop()
        if loop is not None:
            loop.jump(timeout)
        return []


def _clean_up(loop: VirtualLoop) -> None:
    loop.grant(CLEAN_UP_SECONDS)
    leftovers = asyncio.all_tasks(loop)
    for task in leftovers:
        task.cancel()
    if leftovers:
        loop.run_until_complete(asyncio.wait(leftovers))
    loop.run_until_complete(loop.shutdown_asyncgens())


def _position(task: asyncio.Task[Any]) -> str:
    """File and line of the innermost frame: get_stack() stops at the task's own coroutine."""
    awaited: Any = task.get_coro()
    position = "its start"
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None)
        if frame is not None:
            position = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        awaited = getattr(awaited, "cr_await", None)
    return position


@contextmanager
def _outer_loop_set_aside() -> Iterator[None]:
    """Let a second loop run while one is running already, as Pyodide's always is."""
    outer = asyncio._get_running_loop()
    if outer is None:
        yield
        return
    task = asyncio.current_task(outer)
    if task is not None:
        asyncio._leave_task(outer, task)
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(outer)
        if task is not None:
            asyncio._enter_task(outer, task)

"""The virtual clock: time jumps, and nothing left behind goes unnoticed."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from kwaainet.errors import UsageError
from kwaainet.testing import clock


def test_an_hour_passes_at_once() -> None:
    async def main() -> float:
        start = clock.now()
        await asyncio.sleep(3600)
        return clock.now() - start

    real = time.monotonic()
    assert clock.run(main()) == pytest.approx(3600)
    assert time.monotonic() - real < 30


def test_every_run_starts_at_the_epoch() -> None:
    async def main() -> float:
        await asyncio.sleep(1)
        return clock.now()

    assert clock.run(main()) == clock.run(main()) == pytest.approx(clock.EPOCH + 1)


def test_timers_fire_in_order() -> None:
    seen: list[float] = []

    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append(seconds)

    async def main() -> None:
        await asyncio.gather(*map(wait, (3, 1, 2, 0.5)))

    clock.run(main())
    assert seen == [0.5, 1, 2, 3]


def test_timeouts_work() -> None:
    async def main() -> None:
        async with asyncio.timeout(5):
            await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        clock.run(main())


def test_a_deadlock_is_named() -> None:
    async def wait_for_nothing() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(wait_for_nothing(), name="the-waiter")

    with pytest.raises(UsageError, match=r"deadlock(.|\n)*the-waiter"):
        clock.run(main())


def test_a_run_without_end_is_stopped() -> None:
    async def tick() -> None:
        while True:
            await asyncio.sleep(60)

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        await asyncio.Event().wait()
        await ticking

    with pytest.raises(UsageError, match="still running after 3600 virtual seconds"):
        clock.run(main(), max_seconds=3600)


def test_spinning_tasks_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "MAX_IDLE_TURNS", 100)

    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(UsageError, match="something spins"):
        clock.run(main())


@pytest.mark.parametrize("kept", [True, False])
def test_an_exception_nobody_retrieved_fails_the_run(kept: bool) -> None:
    async def fail() -> None:
        raise ValueError("lost")

    tasks = []

    async def main() -> None:
        task = asyncio.create_task(fail())
        if kept:
            tasks.append(task)
        del task
        await asyncio.sleep(1)

    with pytest.raises(ValueError, match="lost"):
        clock.run(main())


def test_an_exception_in_a_callback_fails_the_run() -> None:
    def fail() -> None:
        raise ValueError("in a callback")

    async def main() -> None:
        asyncio.get_running_loop().call_later(1, fail)
        await asyncio.sleep(2)

    with pytest.raises(ValueError, match="in a callback"):
        clock.run(main())


def test_a_retrieved_exception_is_fine() -> None:
    async def fail() -> None:
        raise ValueError

    async def main() -> int:
        results = await asyncio.gather(fail(), return_exceptions=True)
        return len(results)

    assert clock.run(main()) == 1


def test_leftover_tasks_are_cancelled_and_generators_closed() -> None:
    closed: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(1e9)
        finally:
            closed.append("task")

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append("generator")

    generator = numbers()
    tasks = []

    async def main() -> None:
        tasks.append(asyncio.create_task(linger()))
        await anext(generator)

    clock.run(main())
    assert closed == ["task", "generator"]


def test_the_error_of_main_comes_first() -> None:
    async def fail() -> None:
        raise ValueError("second")

    async def main() -> None:
        task = asyncio.create_task(fail())
        await asyncio.sleep(1)
        raise KeyError("first", task.done())

    with pytest.raises(KeyError, match="first"):
        clock.run(main())


def test_runs_inside_a_task_of_a_running_loop() -> None:
    """As in Pyodide: the outer loop and its current task are back in place afterwards."""

    async def inner() -> float:
        await asyncio.create_task(asyncio.sleep(5))
        return clock.now()

    async def outer() -> tuple[float, bool]:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        when = clock.run(inner())
        await asyncio.sleep(0)
        return when, asyncio.current_task() is task and asyncio.get_running_loop() is loop

    assert clock.run(outer()) == (pytest.approx(clock.EPOCH + 5), True)


def test_now_needs_the_virtual_clock() -> None:
    with pytest.raises(UsageError, match="virtual clock"):
        clock.now()


def test_threads_are_refused() -> None:
    with pytest.raises(UsageError, match="thread"):
        clock.run(asyncio.to_thread(print))

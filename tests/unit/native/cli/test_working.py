"""Work in a thread ends at its next report once it is cancelled, and has cleaned up by then."""

from __future__ import annotations

import asyncio
import threading

import pytest

from kwaainet.errors import ModelFileError
from kwaainet.native.cli.working import work
from kwaainet.ports import Report
from kwaainet.types import Progress


def test_results_errors_and_reports_pass() -> None:
    seen: list[Progress] = []

    def function(report: Report) -> int:
        report(Progress("step", 1, 2))
        return 7

    def failing(report: Report) -> int:
        raise ModelFileError("broken")

    assert asyncio.run(work(function, seen.append)) == 7
    assert seen == [Progress("step", 1, 2)]
    with pytest.raises(ModelFileError, match="broken"):
        asyncio.run(work(failing, seen.append))


def test_an_interrupt_waits_until_the_work_has_cleaned_up() -> None:
    begun, cleaned = threading.Event(), threading.Event()

    def endless(report: Report) -> None:
        try:
            while True:
                report(Progress("step"))
                begun.set()
        finally:
            cleaned.set()

    async def interrupted() -> None:
        task = asyncio.ensure_future(work(endless, lambda progress: None))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert cleaned.is_set()

    asyncio.run(interrupted())

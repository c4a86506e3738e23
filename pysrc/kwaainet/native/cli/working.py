"""Long work in a thread, that an interrupt ends at its next step.

Rule of the file: whoever cancels waits until the work has cleaned up behind itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from ...ports import Report
from ...types import Progress

_T = TypeVar("_T")


class _Interrupted(BaseException):
    """Unwinds the work; nothing catches it but what cleans up."""


async def work(function: Callable[[Report], _T], report: Report) -> _T:
    """``function`` in a thread; it reports often, and when this is cancelled its next report unwinds it."""
    ended = threading.Event()

    def checked(progress: Progress) -> None:
        if ended.is_set():
            raise _Interrupted
        report(progress)

    running = asyncio.ensure_future(asyncio.to_thread(_unwound, function, checked))
    try:
        (result,) = await asyncio.shield(running)
        return result
    except asyncio.CancelledError:
        ended.set()
        await asyncio.wait({running})
        raise


def _unwound(function: Callable[[Report], _T], report: Report) -> list[_T]:
    """The result; nothing where the work was interrupted."""
    try:
        return [function(report)]
    except _Interrupted:
        return []

"""How a command that runs on is told to end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable


async def until_signalled() -> None:
    """Return on SIGINT or SIGTERM; a second one ends the process at once, as it would without us."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        await stop.wait()
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def leave_in_order(leave: Awaitable[None], hurry: Callable[[], Awaitable[None]]) -> None:
    """Await ``leave``; on a signal meanwhile also ``hurry``, which is to make it end soon."""
    leaving = asyncio.ensure_future(leave)
    signalled = asyncio.ensure_future(until_signalled())
    try:
        await asyncio.wait({leaving, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if signalled.done():
            await hurry()
        await leaving
    finally:
        signalled.cancel()


async def drained(work: Awaitable[object]) -> None:
    """Await ``work``, or a signal that comes meanwhile."""
    working = asyncio.ensure_future(work)
    signalled = asyncio.ensure_future(until_signalled())
    try:
        await asyncio.wait({working, signalled}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        signalled.cancel()

"""How a command that runs on is told to end."""

from __future__ import annotations

import asyncio
import signal


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

"""Notices that the machine's clock is set, as after a halt of a virtual machine or by a time server.

Rule of the file: it only looks and tells; a clock that is slewed, as time servers do by choice, is not set.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from ...ports import Clock

log = logging.getLogger(__name__)

LOOK_PERIOD = 1.0  # seconds
JUMP = 5.0  # seconds, far more than a clock is slewed by in that time


@asynccontextmanager
async def following_the_clock(
    set_ahead: Callable[[float], Awaitable[None]], wall: Clock = time.time, steady: Clock = time.monotonic
) -> AsyncIterator[None]:
    """While inside, await ``set_ahead`` with the seconds by which the clock was set ahead."""

    async def follow() -> None:
        ahead = wall() - steady()
        while True:
            await asyncio.sleep(LOOK_PERIOD)
            before, ahead = ahead, wall() - steady()
            if abs(ahead - before) > JUMP:
                log.warning("the clock of this machine was set %+.0f s", ahead - before)
            if ahead - before > JUMP:
                await set_ahead(ahead - before)

    following = asyncio.ensure_future(follow())
    try:
        yield
    finally:
        following.cancel()

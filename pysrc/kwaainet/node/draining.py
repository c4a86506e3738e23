"""Leaving so that nobody is let down: serve on until nobody can come who has not heard of it.

Stock clients read the DHT every 60 s and until then choose a server that has said OFFLINE; nor do
they fail over inside a generation. Rule of the file: it waits and decides when; what ends is up to
its caller.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

POLL = 0.25  # seconds between looks at whether anybody is still served


class Drain:
    """The time between the announcement that we leave and the end.

    It ends when ``grace`` seconds have passed (by then every client has read that we left) and
    ``is_busy`` says that nobody is being served, or at the latest when the time given is over.
    """

    def __init__(self, grace: float, is_busy: Callable[[], bool]) -> None:
        self._grace, self._is_busy = grace, is_busy
        self._deadline = math.inf
        self._waiting = False

    @property
    def seconds_left(self) -> float | None:
        """How much longer it may take; ``None`` unless it is under way."""
        return max(0.0, self._deadline - _time()) if self._waiting else None

    def limit(self, seconds: float) -> None:
        """End in so many seconds at most, counted from now; a longer time than given before is ignored."""
        self._deadline = min(self._deadline, _time() + seconds)

    async def wait(self) -> None:
        """Return at the end; ``limit`` must have been called, and may be called again meanwhile."""
        quiet_from = _time() + self._grace
        self._waiting = True
        try:
            while _time() < self._deadline and (self._is_busy() or _time() < quiet_from):
                await asyncio.sleep(min(POLL, self._deadline - _time()))
        finally:
            self._waiting = False


def _time() -> float:
    """Seconds on the loop's clock: unlike unix time it is never set back."""
    return asyncio.get_running_loop().time()

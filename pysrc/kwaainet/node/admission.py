"""Who may use how much of the attention cache, and who waits for it.

Follows Petals' ``server/memory_cache.py``: first come, first served, with a time limit. Rule of the
file: what was granted is given back exactly once, however its holder ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..errors import CapacityError, Unavailable


class Admission:
    """A budget of cache ``tokens`` (rows x positions) for at most ``max_holders`` at a time."""

    def __init__(self, tokens: int, max_holders: int) -> None:
        self.total = tokens
        self.tokens_left = tokens
        self.holders = 0
        self._max_holders = max_holders
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def admit(self, tokens: int, timeout: float) -> AsyncIterator[None]:
        """Hold ``tokens`` while inside; wait up to ``timeout`` seconds for them.

        Raises ``CapacityError`` when they cannot be had at all, ``Unavailable`` when not in time.
        """
        if tokens > self.total:
            raise CapacityError(
                f"{tokens} tokens of attention cache were asked for; this server has {self.total} in all; "
                "use a smaller batch or max_length"
            )
        await self._wait(tokens, timeout)
        try:
            yield
        finally:
            self.tokens_left += tokens
            self.holders -= 1
            self._serve_queue()

    async def _wait(self, tokens: int, timeout: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (tokens, turn)
        self._queue.append(entry)
        self._serve_queue()
        if turn.done():
            return
        try:
            async with asyncio.timeout(timeout):
                await turn
        except BaseException as error:
            self._leave(entry)
            if isinstance(error, TimeoutError):
                raise Unavailable(self._refusal(tokens, timeout)) from None
            raise

    def _leave(self, entry: tuple[int, asyncio.Future[None]]) -> None:
        """Out of the queue; if the grant came at the same moment, give it back."""
        tokens, turn = entry
        if entry in self._queue:
            self._queue.remove(entry)
        elif not turn.cancelled():
            self.tokens_left += tokens
            self.holders -= 1
        self._serve_queue()

    def _serve_queue(self) -> None:
        while self._queue:
            tokens, turn = self._queue[0]
            given_up = turn.done()  # cancelled, though its task has not run since
            if not given_up and (tokens > self.tokens_left or self.holders >= self._max_holders):
                return
            self._queue.popleft()
            if not given_up:
                self.tokens_left -= tokens
                self.holders += 1
                turn.set_result(None)

    def _refusal(self, tokens: int, timeout: float) -> str:
        if self.holders >= self._max_holders:
            busy = f"all {self._max_holders} sessions are taken"
        else:
            busy = f"{self.tokens_left} of {self.total} tokens are free and {len(self._queue)} others wait"
        return (
            f"the attention cache is full: {tokens} tokens were not to be had in {timeout:g} s ({busy}); "
            "try later or another server"
        )

"""Who may use how much of the attention cache, who waits for it, and who has to give way.

Follows Petals' ``server/memory_cache.py``: first come, first served, with a time limit; and goes
further where peers would harm each other. Rule of the file: what was granted is given back exactly
once, however its holder ends.

One peer may have at most half of the holders' places, those it waits for included. A holder that has
not been in use for ``idle_limit`` seconds gives way when another peer waits who holds less than the
holder's peer does: sessions that are opened and never stepped keep room from nobody for long, and
nobody can push out the idle by asking for much.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from ..errors import CapacityError, Unavailable
from ..types import PeerId

IDLE_LIMIT = 30.0  # seconds
_NOTICE = 1.0  # seconds a revoked holder has to go before the next is revoked


@dataclass(slots=True, eq=False)
class Grant:
    """Tokens held by somebody. ``on_revoked`` is told why they must be given back."""

    tokens: int
    peer: PeerId | None
    idle_since: float | None  # of the event loop's clock; None while in use
    on_revoked: Callable[[Unavailable], None] = lambda error: None
    revoked: bool = False

    def revoke(self, idle: float) -> None:
        """Tell the holder to go."""
        self.revoked = True
        self.on_revoked(
            Unavailable(
                f"the session was idle for {idle:.0f} s while others wait for its cache; open another"
            )
        )

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The holder is not idle meanwhile."""
        self.idle_since = None
        try:
            yield
        finally:
            self.idle_since = asyncio.get_running_loop().time()


@dataclass(slots=True, eq=False)
class _Waiting:
    tokens: int
    peer: PeerId | None
    turn: asyncio.Future[Grant] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Admission:
    """A budget of cache ``tokens`` (rows x positions) for at most ``max_holders`` at a time."""

    def __init__(self, tokens: int, max_holders: int, idle_limit: float = IDLE_LIMIT) -> None:
        self.total = tokens
        self._free = tokens  # below 0 after it shrank under its holders
        self._max_holders = max_holders
        self._max_of_peer = max(1, max_holders // 2)
        self._idle_limit = idle_limit
        self._grants: set[Grant] = set()
        self._queue: deque[_Waiting] = deque()
        self._of_peer: Counter[PeerId] = Counter()  # holders, and those who wait to be

    def resize(self, tokens: int) -> None:
        """Another budget from now on. Holders keep what they hold."""
        self._free += tokens - self.total
        self.total = tokens
        self._serve_queue()

    @property
    def tokens_left(self) -> int:
        """What may be had now."""
        return max(0, self._free)

    @property
    def holders(self) -> int:
        """How many hold something now."""
        return len(self._grants)

    @asynccontextmanager
    async def admit(self, tokens: int, timeout: float, peer: PeerId | None = None) -> AsyncIterator[Grant]:
        """Hold ``tokens`` for ``peer`` while inside; wait up to ``timeout`` seconds for them.

        Raises ``CapacityError`` when they cannot be had at all, ``Unavailable`` when not in time or
        when this peer has its share.
        """
        if tokens > self.total:
            raise CapacityError(
                f"{tokens} tokens of attention cache were asked for; this server has {self.total} in all; "
                "use a smaller batch or max_length"
            )
        with self._place(peer):
            grant = await self._wait(_Waiting(tokens, peer), timeout)
            try:
                yield grant
            finally:
                self._give_back(grant)

    @contextmanager
    def _place(self, peer: PeerId | None) -> Iterator[None]:
        if peer is None:
            yield
            return
        if self._of_peer[peer] >= self._max_of_peer:
            raise Unavailable(
                f"this peer has {self._of_peer[peer]} sessions here, the most that one peer may have; "
                "close some or take another server too"
            )
        self._of_peer[peer] += 1
        try:
            yield
        finally:
            self._of_peer[peer] -= 1
            self._of_peer += Counter()  # drops zeros

    async def _wait(self, waiting: _Waiting, timeout: float) -> Grant:
        self._queue.append(waiting)
        self._serve_queue()
        if waiting.turn.done():
            return waiting.turn.result()
        self._revoke_for(waiting)
        try:
            async with asyncio.timeout(timeout):
                return await waiting.turn
        except BaseException as error:
            self._leave(waiting)
            if isinstance(error, TimeoutError):
                raise Unavailable(self._refusal(waiting.tokens, timeout)) from None
            raise

    def _leave(self, waiting: _Waiting) -> None:
        """Out of the queue; if the grant came at the same moment, give it back."""
        if waiting in self._queue:
            self._queue.remove(waiting)
            self._serve_queue()
        elif not waiting.turn.cancelled():
            self._give_back(waiting.turn.result())

    def _give_back(self, grant: Grant) -> None:
        self._grants.remove(grant)
        self._free += grant.tokens
        self._serve_queue()

    def _serve_queue(self) -> None:
        if not self._queue:
            return
        now = asyncio.get_running_loop().time()
        while self._queue:
            first = self._queue[0]
            given_up = first.turn.done()  # cancelled, though its task has not run since
            room = first.tokens <= self.tokens_left and self.holders < self._max_holders
            if not given_up and not room:
                return
            self._queue.popleft()
            if not given_up:
                grant = Grant(first.tokens, first.peer, now)
                self._grants.add(grant)
                self._free -= first.tokens
                first.turn.set_result(grant)

    def _revoke_for(self, waiting: _Waiting) -> None:
        """Revoke the longest idle holder who must give way, if any; look again as long as there is need."""
        if waiting.turn.done():
            return
        loop = asyncio.get_running_loop()
        held = self._held(waiting.peer)
        giving_way = [
            (grant.idle_since, id(grant), grant)
            for grant in self._grants
            if grant.idle_since is not None and not grant.revoked and self._held(grant.peer) > held
        ]
        delay = self._idle_limit
        if giving_way:
            since, _, grant = min(giving_way)
            delay = since + self._idle_limit - loop.time()
            if delay <= 0:
                grant.revoke(loop.time() - since)
                delay = _NOTICE
        loop.call_later(delay, self._revoke_for, waiting)

    def _held(self, peer: PeerId | None) -> int:
        return sum(grant.tokens for grant in self._grants if grant.peer == peer)

    def _refusal(self, tokens: int, timeout: float) -> str:
        if self.holders >= self._max_holders:
            busy = f"all {self._max_holders} sessions are taken"
        else:
            busy = f"{self.tokens_left} of {self.total} tokens are free and {len(self._queue)} others wait"
        return (
            f"the attention cache is full: {tokens} tokens were not to be had in {timeout:g} s ({busy}); "
            "try later or another server"
        )

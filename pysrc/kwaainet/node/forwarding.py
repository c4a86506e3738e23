"""A span that computes nothing: what a gateway serves, carried out by other servers.

Stands where ``span.ServedSpan`` does. Each cache is a session of our own client, which keeps the inputs
and replays them into another server when one is lost. Rule of the file: what a caller may make us keep
is admitted first; a caller never hears of a lost server that could be replaced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, TypeAlias

import numpy as np

from ..errors import KwaaiNetError, StreamReset
from ..ports import Floats
from ..swarm.routing import Hop
from ..types import BlockRange, PeerId
from .admission import Admission, Grant

MAX_STEP_BYTES = 4 << 20  # of hidden states in one step; longer prompts go on piece by piece


class Session(Protocol):
    """The part of our client's session that forwarding needs."""

    @property
    def failovers(self) -> int:
        """Servers replaced so far."""

    @property
    def hops(self) -> Sequence[Hop]:
        """The chain as it is now."""

    async def step(self, hidden: Floats, rows: Sequence[int] | None = None) -> Floats:
        """hidden [batch, n, hidden] through the chain; row i of every cache becomes ``rows[i]`` first."""

    async def rollback(self, length: int) -> None:
        """Forget all but the first ``length`` positions."""


# (blocks, max_length, batch, the id of the request it is for) -> a session
OpenSession: TypeAlias = Callable[[BlockRange, int, int, str], AbstractAsyncContextManager[Session]]


class ForwardedSpan:
    """Runs hidden states [batch, n, hidden] through the blocks ``served``, elsewhere.

    ``admission`` counts the positions whose inputs are kept (rows x length).
    """

    def __init__(self, open_session: OpenSession, served: BlockRange, admission: Admission) -> None:
        self.admission = admission
        self.tokens_done = 0
        self._open_session, self._served = open_session, served
        self._caches: dict[ForwardedCache, None] = {}
        self._past_failovers = 0

    @property
    def failovers(self) -> int:
        """Servers replaced in all sessions so far."""
        return self._past_failovers + sum(cache.failovers for cache in self._caches)

    @property
    def in_use(self) -> Counter[PeerId]:
        """The servers that carry sessions now, and how many each."""
        return Counter(hop.peer for cache in self._caches for hop in cache.hops)

    @asynccontextmanager
    async def open_cache(
        self,
        batch: int,
        max_length: int,
        timeout: float,
        blocks: BlockRange | None = None,
        peer: PeerId | None = None,
        request_id: str = "",
    ) -> AsyncIterator[ForwardedCache]:
        """A session for ``batch`` rows of ``max_length`` positions; room is waited for up to ``timeout`` s.

        ``blocks`` are those to run, counted from the span's start; all of them unless said. Raises
        ``CapacityError`` without room in time, and what opening a session raises.
        """
        asked = blocks or BlockRange(0, len(self._served))
        first = self._served.start
        absolute = BlockRange(first + asked.start, first + asked.end)
        async with (
            self.admission.admit(batch * max_length, timeout, peer) as grant,
            self._open_session(absolute, max_length, batch, request_id) as session,
        ):
            cache = ForwardedCache(self, session, grant)
            self._caches[cache] = None
            try:
                yield cache
            finally:
                del self._caches[cache]
                self._past_failovers += cache.failovers

    async def forward(
        self, hidden: Floats, timeout: float, blocks: BlockRange | None = None, peer: PeerId | None = None
    ) -> Floats:
        """hidden [batch, n, hidden] -> the same shape, each row on its own from position 0."""
        batch, tokens = hidden.shape[:2]
        if tokens == 0:
            return hidden
        async with self.open_cache(batch, tokens, timeout, blocks, peer) as cache:
            return await cache.run(hidden)


class ForwardedCache:
    """One session at other servers, as ``inference.SessionServer`` uses a cache."""

    def __init__(self, span: ForwardedSpan, session: Session, grant: Grant) -> None:
        # Told when others get the room of a session that lies idle; there is no device to lose.
        self.on_lost: Callable[[KwaaiNetError], None] = lambda error: None
        grant.on_revoked = lambda error: self.on_lost(error)
        self._span, self._session, self._grant = span, session, grant
        self._rows: list[int] | None = None  # the order asked for since the last step

    @property
    def failovers(self) -> int:
        """Servers of this session replaced so far."""
        return self._session.failovers

    @property
    def hops(self) -> Sequence[Hop]:
        """The servers of this session now."""
        return self._session.hops

    async def run(self, hidden: Floats, is_wanted: Callable[[], bool] = lambda: True) -> Floats:
        """Append hidden's positions, n >= 1; ``is_wanted`` is asked between steps."""
        batch, tokens, width = hidden.shape
        size = max(1, MAX_STEP_BYTES // (4 * batch * width))
        outputs = []
        for first in range(0, tokens, size):
            if first and not is_wanted():
                raise StreamReset("the caller left before its request was done")
            piece = np.ascontiguousarray(hidden[:, first : first + size])
            with self._grant.in_use():
                outputs.append(await self._session.step(piece, self._rows))
            self._rows = None
            self._span.tokens_done += batch * piece.shape[1]
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1)

    async def truncate(self, length: int) -> None:
        """Roll back to the first ``length`` positions."""
        await self._session.rollback(length)

    async def reorder(self, rows: Sequence[int]) -> None:
        """Row i becomes what row ``rows[i]`` was; the servers do so with the next step."""
        self._rows = list(rows) if self._rows is None else [self._rows[row] for row in rows]

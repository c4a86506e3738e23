"""When a server chooses its blocks, and when it chooses again.

Follows Petals' ``Server.run`` (server/server.py): looks at random times, and once more after a random
delay, so that not all move at once. Rule of the file: it decides and waits; where to go is decided in
``swarm.placement``, how to get there by whom it asks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..errors import KwaaiNetError
from ..swarm.placement import Move, View, better_span, choose_span
from ..types import BlockRange, PeerId

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Restlessness:
    """How readily a server moves; times are seconds, the first three defaults are Petals'."""

    balance_quality: float = 0.75  # move when the slowest block is slower than this share of what it could be
    check_period: float = 120.0  # between looks, on average
    selection_delay: float = 5.0  # before a choice, on average: others may make the same at this moment
    min_stay: float = 900.0  # between two moves that only make the swarm faster
    min_urgent_stay: float = 120.0  # between two moves for a block that nobody has


class Mover:
    """Places one server. ``chance`` is uniform in 0 to 1."""

    def __init__(
        self,
        peer: PeerId,
        read: Callable[[], Awaitable[View]],
        chance: Callable[[], float],
        restlessness: Restlessness,
    ) -> None:
        self._peer, self._read, self._chance, self._options = peer, read, chance, restlessness
        self.moves = 0

    async def first(self, length: int) -> BlockRange:
        """Where a newcomer of so many blocks goes. Raises what reading raises."""
        await self._hesitate()
        return choose_span(await self._read(), length)

    async def run(self, move: Callable[[BlockRange], Awaitable[None]]) -> None:
        """Look again and again, and ``move`` where that is worth it; never returns."""
        settled = _time()
        while True:
            await asyncio.sleep(2 * self._chance() * self._options.check_period)
            if await self._look(settled) is None:
                continue
            await self._hesitate()
            found = await self._look(settled)
            if found is not None:
                log.info("moving to blocks %s", found.blocks)
                self.moves += 1
                await move(found.blocks)
                settled = _time()

    async def _look(self, settled: float) -> Move | None:
        options = self._options
        stayed = _time() - settled
        if stayed < options.min_urgent_stay:
            return None
        try:
            view = await self._read()
        except (KwaaiNetError, TimeoutError) as error:
            log.info("the swarm cannot be read, so nobody moves: %s", error)
            return None
        return better_span(
            self._peer,
            view,
            balance_quality=options.balance_quality,
            chance=self._chance,
            only_urgent=stayed < options.min_stay,
        )

    async def _hesitate(self) -> None:
        await asyncio.sleep(2 * self._chance() * self._options.selection_delay)


def _time() -> float:
    return asyncio.get_running_loop().time()

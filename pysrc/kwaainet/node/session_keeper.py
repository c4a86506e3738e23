"""What happens to a session between its steps: dead hops are noticed and replaced, spares are fed.

Rule of the file: it works only while no step runs, and a session that nobody has used for a while is left
as it is until somebody does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from ..errors import KwaaiNetError, Unreachable
from ..ports import Clock
from ..swarm.health import Reason
from .live_hop import LiveHop
from .step_watch import StepWatch
from .swarm_view import SwarmView

log = logging.getLogger(__name__)

HEARTBEAT = 5.0  # seconds without a step after which the hops are pinged, and between such pings
IN_USE = 120.0  # seconds after a step in which lost hops are replaced ahead of the next one
PINGS = 2  # unanswered in a row by a hop that is given up


class SessionKeeper:
    """``hops()`` is the chain; ``repair()`` replaces the hops that failed, ``tend()`` sees to spares."""

    def __init__(
        self,
        hops: Callable[[], Sequence[LiveHop]],
        repair: Callable[[], Awaitable[None]],
        tend: Callable[[], Awaitable[None]],
        view: SwarmView,
        watch: StepWatch,
        now: Clock,
    ) -> None:
        self._hops, self._repair, self._tend = hops, repair, tend
        self._view, self._watch, self._now = view, watch, now
        self._woken = asyncio.Event()
        self._used = now()
        self._stepping = False
        self._task = asyncio.ensure_future(self._keep())

    def step_begins(self) -> None:
        """From now on the step looks after its hops itself."""
        self._stepping = True

    def step_ends(self) -> None:
        """It has been answered, or has failed."""
        self._stepping, self._used = False, self._now()
        self._woken.set()

    def hop_failed(self) -> None:
        """A hop is lost, whether anything was asked of it or not."""
        self._woken.set()

    async def close(self) -> None:
        """Stop keeping."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _keep(self) -> None:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await self._woken.wait()
            except TimeoutError:
                await self._ping()
            self._woken.clear()
            if self._stepping or self._now() - self._used > IN_USE:
                continue
            try:
                if any(live.failure is not None for live in self._hops()):
                    await self._repair()
                await self._tend()
            except KwaaiNetError as error:  # the next step tries again, and tells who asked for it
                log.info("a session is not well: %s", error)

    async def _ping(self) -> None:
        """Give up the hops that another could replace and that answer no ping."""
        if self._stepping or self._now() - self._used > IN_USE:
            return
        await asyncio.gather(*(self._ping_one(live) for live in self._hops() if live.failure is None))

    async def _ping_one(self, live: LiveHop) -> None:
        for _ in range(PINGS):
            if await self._watch.is_alive(live) or self._stepping or not self._view.can_replace(live.hop):
                return
        live.fail(Unreachable("it answers no ping"), Reason.SILENT)

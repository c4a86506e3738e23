"""Waits for the answer of a step, doubts a server that is late, and gives up one that is gone or stuck.

Rule of the file: a server is given up only while another could take its place; a slow one that nobody can
replace is waited for. Who answers pings is alive, and is given a multiple of the time.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..errors import KwaaiNetError, Unreachable
from ..ports import Clock, Floats
from ..swarm.deadlines import give_up
from ..swarm.health import Reason
from .live_hop import LiveHop
from .swarm_view import SwarmView

PING_FLOOR = 1.0  # seconds; a tab that computes a long prompt answers a ping between two runs
PING_ROUND_TRIPS = 5.0  # a ping may take so many times the usual round trip


class StepWatch:
    """For the hops of one session."""

    def __init__(self, view: SwarmView, now: Clock) -> None:
        self._view, self._now = view, now

    async def answer(self, live: LiveHop, answer: asyncio.Future[Floats], tokens: int) -> Floats:
        """The answer of a step of ``tokens``, which has been sent. Raises why the hop failed."""
        started = self._now()
        if answer.done():
            return answer.result()
        deadlines = self._view.deadlines(live.hop.peer)
        announced = tokens * self._view.announced_seconds(live.hop)
        doubt = deadlines.doubt(tokens, announced, fresh=live.fresh)
        wait, end = doubt, give_up(doubt)
        while not await _arrives(answer, wait):
            late = self._now() - started
            if self._view.can_replace(live.hop):
                if late >= end:
                    live.fail(Unreachable(f"it did not answer within {late:.3g} s"), Reason.SILENT)
                else:
                    await self._ping(live, answer, late)
            wait = doubt
        seconds = self._now() - started
        if not live.fresh:
            deadlines.observe(tokens, seconds)
        live.fresh = False
        return answer.result()

    async def is_alive(self, live: LiveHop) -> bool:
        """Whether the hop's peer answers a ping; at once ``False`` if the hop has failed."""
        usual = self._view.round_trips.get(live.hop.peer, self._now()) or 0.0
        try:
            await self._view.ping(live.hop.peer, max(PING_FLOOR, PING_ROUND_TRIPS * usual))
        except (KwaaiNetError, TimeoutError):
            return False
        return live.failure is None

    async def _ping(self, live: LiveHop, answer: asyncio.Future[Floats], late: float) -> None:
        """Fail the hop if its peer does not answer a ping either, before the answer is there."""
        ping = asyncio.ensure_future(self.is_alive(live))
        try:
            waiting: list[asyncio.Future[Any]] = [ping, answer]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and not ping.result():
                error = Unreachable(f"no answer within {late:.3g} s, nor to a ping")
                live.fail(error, Reason.SILENT)
        finally:
            ping.cancel()


async def _arrives(answer: asyncio.Future[Floats], seconds: float) -> bool:
    """Whether the answer, or why there is none, is there within so many seconds."""
    await asyncio.wait([answer], timeout=seconds)
    return answer.done()

"""Waits for the answer of a step, doubts a server that is late, and gives up one that is gone or stuck.

A late server is asked on two levels: its network, which in a tab has a thread of its own, and its Python,
which may be in the midst of somebody's long prompt. Rule of the file: a server is given up only while another
could take its place; a slow one that nobody can replace is waited for. Who answers both is alive, and is
given a multiple of the time.
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

PING_FLOOR = 1.7  # seconds; a tab that computes a long prompt answers a ping between two runs
REACH_FLOOR = 0.5  # seconds for its network to answer
GONE_FLOOR = 0.15  # the same, where the swarm no longer has it as a server
FRESH_NETWORK = 0.5  # seconds after which the network alone is asked of a server that opens a session
PING_ROUND_TRIPS = 5.0  # each may take so many times the usual round trip


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
        if live.fresh and doubt > FRESH_NETWORK and not await _arrives(answer, FRESH_NETWORK):
            if self._view.can_replace(live.hop):
                await self._doubt(live, answer, FRESH_NETWORK, python=False)
            wait -= FRESH_NETWORK
        while not await _arrives(answer, wait):
            late = self._now() - started
            if self._view.can_replace(live.hop):
                if late >= end:
                    live.fail(Unreachable(f"it did not answer within {late:.3g} s"), Reason.SILENT)
                else:
                    await self._doubt(live, answer, late)
            wait *= 2  # it has just been asked
        seconds = self._now() - started
        if not live.fresh:
            deadlines.observe(tokens, seconds)
        live.fresh = False
        return answer.result()

    async def is_alive(self, live: LiveHop) -> bool:
        """Whether the hop's peer answers a ping; at once ``False`` if the hop has failed."""
        try:
            await self._view.ping(live.hop.peer, self._patience(live, PING_FLOOR))
        except (KwaaiNetError, TimeoutError):
            return False
        return live.failure is None

    async def _doubt(
        self, live: LiveHop, answer: asyncio.Future[Floats], late: float, python: bool = True
    ) -> None:
        """Fail the hop if its peer's network or Python is silent, before the answer is there."""
        questions = {asyncio.ensure_future(self._is_reached(live)): "nor to anything else"}
        if python:
            questions[asyncio.ensure_future(self.is_alive(live))] = "nor to a ping"
        pending: set[asyncio.Future[Any]] = {answer, *questions}
        try:
            while not answer.done() and len(pending) > 1:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                silent = [
                    text for question, text in questions.items() if question in done and not question.result()
                ]
                if silent and not answer.done():
                    error = Unreachable(f"no answer within {late:.3g} s, {silent[0]}")
                    live.fail(error, Reason.SILENT)
        finally:
            for question in questions:
                question.cancel()

    async def _is_reached(self, live: LiveHop) -> bool:
        """Whether the peer's network answers; less time is left for it if the swarm has lost the peer."""
        peer = live.hop.peer
        reached = asyncio.ensure_future(self._view.reaches(peer, self._patience(live, REACH_FLOOR)))
        announced = asyncio.ensure_future(self._view.announces(peer))
        try:
            await asyncio.wait([reached, announced], return_when=asyncio.FIRST_COMPLETED)
            if announced.done() and not announced.result():
                await asyncio.wait([reached], timeout=self._patience(live, GONE_FLOOR))
                return reached.done() and reached.result()
            return await reached
        finally:
            reached.cancel()
            announced.cancel()

    def _patience(self, live: LiveHop, floor: float) -> float:
        usual = self._view.round_trip(live.hop.peer) or 0.0
        return max(floor, PING_ROUND_TRIPS * usual)


async def _arrives(answer: asyncio.Future[Floats], seconds: float) -> bool:
    """Whether the answer, or why there is none, is there within so many seconds."""
    await asyncio.wait([answer], timeout=seconds)
    return answer.done()

"""Finds who takes the place of a lost hop, and brings them to where the session stands.

Rule of the file: what comes out has the whole history, computed anew by the replacement alone; as long as
somebody who holds the blocks may turn up, within ``patience``, it is tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ..errors import KwaaiNetError, Unreachable
from ..inference.chain import Step
from ..inference.history import Histories
from ..ports import Clock
from ..swarm.routing import Hop
from ..types import PeerId
from .client_options import ClientOptions
from .hop_opener import HopOpener, close_all
from .live_hop import LiveHop
from .spares import Spares
from .step_watch import StepWatch
from .swarm_view import SwarmView

RETRY_PAUSE = 0.5  # seconds between looks for somebody who holds lost blocks


class Recovery:
    """Of one session, whose inputs are in ``histories``."""

    def __init__(
        self,
        opener: HopOpener,
        view: SwarmView,
        watch: StepWatch,
        histories: Histories,
        options: ClientOptions,
        spares: Spares,
        *,
        now: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._opener, self._view, self._watch, self._histories = opener, view, watch, histories
        self._options, self._spares, self._now, self._new_id = options, spares, now, new_id

    async def replace(self, lost: LiveHop, step: Step) -> list[LiveHop]:
        """Hops for the blocks of ``lost`` that have what came before ``step``.

        Raises ``Unreachable`` if nobody is found, and what a server of the replacement reports.
        """
        give_up = self._now() + self._options.patience
        avoid: set[PeerId] = set() if lost.blameless else {lost.hop.peer}
        looked = False
        while True:
            try:
                spare = await self._spares.take(lost.hop)
                hops = [spare] if spare else await self._opener.open(lost.hop.blocks, avoid)
            except Unreachable:
                if looked and self._now() >= give_up:
                    raise
                await self._look_again(looked)
                looked = True
                avoid.clear()
                continue
            try:
                failed = await self.replay(hops, step)
            except BaseException:  # nobody waits any more
                await close_all(hops)
                raise
            if failed is None:
                return hops
            await close_all(hops)
            assert failed.failure is not None, "a hop fails with an error"
            if failed.reason is None:
                raise named(failed.hop, failed.failure)
            avoid.add(failed.hop.peer)
            self._view.failed(failed.hop.peer, failed.reason, str(failed.failure))

    async def replay(self, hops: Sequence[LiveHop], step: Step) -> LiveHop | None:
        """Bring hops from where they are to where ``step`` starts; returns the one that failed, if any.

        The first may have a part of the history; those behind it have nothing yet.
        """
        first, *rest = hops
        for live in rest:
            self._histories.at(live.hop.blocks.start).start_again(step)
        position = first.position
        history = self._histories.at(first.hop.blocks.start)
        for piece in history.pieces(position, step.position, self._options.replay_tokens):
            hidden = piece
            for live in hops:
                if live is not first:
                    self._histories.at(live.hop.blocks.start).append(hidden)
                try:
                    answer = live.expect(hidden.shape, part := Step(self._new_id(), position))
                    await live.send(hidden, part)
                    hidden = await self._watch.answer(live, answer, hidden.shape[0] * hidden.shape[1])
                except KwaaiNetError:
                    return live
            position += piece.shape[1]
        for live in hops:
            live.replayed_in = step.step_id
        return None

    async def _look_again(self, looked: bool) -> None:
        """At once the first time: who was lost may only have lost its connection."""
        if looked:
            await asyncio.sleep(RETRY_PAUSE)
            try:
                await self._view.renew()
            except (KwaaiNetError, TimeoutError):
                return  # then with what is known


def named(hop: Hop, error: KwaaiNetError, more: str = "") -> KwaaiNetError:
    """The same kind of error, with the name of the server that caused it."""
    return type(error)(f"server {hop.peer} (blocks {hop.blocks}) failed: {error}{more}")

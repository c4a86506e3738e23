"""A second server for each hop, given the history with a lag, so that a fail-over replays only the tail.

Rule of the file: a spare never holds up a step; whatever goes wrong with one, it is dropped and another is
looked for later. What it was fed and then rolled back or reordered is fed again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import KwaaiNetError
from ..inference.chain import Step
from ..inference.history import Histories
from ..ports import Clock
from ..swarm.health import Reason
from ..swarm.routing import Hop
from .client_options import ClientOptions
from .hop_opener import HopOpener, close_all
from .live_hop import LiveHop
from .step_watch import StepWatch
from .swarm_view import SwarmView

log = logging.getLogger(__name__)

LAG = 8  # positions that a spare may lack before it is fed: fewer would cost a run for every token
LOOK_PAUSE = 10.0  # seconds between looks for a spare where none was found


@dataclass(slots=True)
class _Spare:
    live: LiveHop
    valid: int = 0  # positions that are as in the history
    epoch: int = 0  # of rollbacks and reorders


class Spares:
    """Of one session."""

    def __init__(
        self,
        opener: HopOpener,
        view: SwarmView,
        watch: StepWatch,
        histories: Histories,
        options: ClientOptions,
        *,
        now: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._opener, self._view, self._watch, self._histories = opener, view, watch, histories
        self._options, self._now, self._new_id = options, now, new_id
        self._spares: dict[Hop, _Spare] = {}  # by the hop that it can replace
        self._look_after: dict[Hop, float] = {}
        self._busy = asyncio.Lock()

    def before(self, step: Step) -> None:
        """What a step rolls back or reorders is no longer what the spares have."""
        for spare in self._spares.values():
            valid = 0 if step.rows is not None else min(spare.valid, step.position)
            if valid < spare.valid:
                spare.valid, spare.epoch = valid, spare.epoch + 1

    async def tend(self, hops: Sequence[Hop], length: int) -> None:
        """Open the spares that are missing, and feed those that lag behind ``length`` positions."""
        async with self._busy:
            for hop in [hop for hop in self._spares if hop not in hops]:
                await self._drop(hop)
            for hop in hops:
                spare = self._spares.get(hop) or await self._open(hop)
                if spare is not None and (not spare.valid or length - spare.valid >= LAG):
                    await self._feed(hop, spare, length)

    async def take(self, hop: Hop) -> LiveHop | None:
        """The spare of a lost hop, with a part of its history; ``None`` if there is none that works."""
        async with self._busy:
            spare = self._spares.pop(hop, None)
        if spare is None:
            return None
        if spare.live.failure is not None:
            await spare.live.close()
            return None
        spare.live.position = spare.valid
        return spare.live

    async def close(self) -> None:
        """Give all of them up."""
        spares, self._spares = list(self._spares.values()), {}
        await close_all(spare.live for spare in spares)

    async def _open(self, hop: Hop) -> _Spare | None:
        if self._now() < self._look_after.get(hop, self._now()):
            return None
        self._look_after[hop] = self._now() + LOOK_PAUSE
        if not self._view.can_replace(hop):
            return None
        try:
            found = await self._opener.open(hop.blocks, {hop.peer})
        except KwaaiNetError as error:
            log.debug("no spare for %s: %s", hop.peer, error)
            return None
        if len(found) > 1:  # what goes into the hops behind the first is not known
            await close_all(found)
            return None
        self._spares[hop] = _Spare(found[0])
        return self._spares[hop]

    async def _feed(self, hop: Hop, spare: _Spare, length: int) -> None:
        live = spare.live
        history = self._histories.at(hop.blocks.start)
        while spare.valid < min(length, history.length):
            epoch, end = spare.epoch, min(length, history.length)
            piece = next(history.pieces(spare.valid, end, self._options.replay_tokens))
            step = Step(self._new_id(), spare.valid)
            try:
                if live.position > spare.valid and not self._view.can_roll_back(live.hop.peer):
                    live.retire("it cannot roll back")
                answer = live.expect(piece.shape, step)
                await live.send(piece, step)
                await self._watch.answer(live, answer, piece.shape[0] * piece.shape[1])
            except KwaaiNetError as error:
                if not live.blameless:
                    self._view.failed(live.hop.peer, live.reason or Reason.FAULTY, f"as a spare: {error}")
                await self._drop(hop)
                return
            if spare.epoch == epoch:
                spare.valid += piece.shape[1]

    async def _drop(self, hop: Hop) -> None:
        spare = self._spares.pop(hop, None)
        if spare is not None:
            await spare.live.close()

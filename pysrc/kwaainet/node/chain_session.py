"""A running session: hidden states go in at the first hop, come out of the last, and lost hops are replaced.

Follows Petals' client/inference_session.py in what a step is; unlike there, the inputs of every hop are kept
and replayed into its replacement. Rule of the file: a server is replaced when it is gone, silent or wrong,
never because it reported an error; what a step has computed elsewhere is not computed again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from ..errors import CapacityError, KwaaiNetError, Unreachable, UsageError
from ..inference.chain import NextServer, Step
from ..inference.history import Budget, Histories
from ..ports import Clock, Floats
from ..swarm.health import Reason
from ..swarm.routing import Hop
from ..types import BlockRange
from .client_options import ClientOptions
from .hop_opener import HopOpener, close_all
from .live_hop import LiveHop
from .recovery import Recovery, named
from .session_keeper import SessionKeeper
from .spares import Spares
from .step_watch import StepWatch
from .swarm_view import SwarmView

log = logging.getLogger(__name__)

# seconds that a way must be shorter for a push: it is one more call, which took 14 ms (WebRTC) to 23 ms
# (circuit) a token between tabs of one machine, where ways take no time
PUSH_PAYS = 0.015


class ChainSession:
    """``max_length`` positions of ``batch`` rows through ``blocks``; made by ``Client.session``.

    ``failovers`` counts the hops that were lost and replaced.
    """

    def __init__(
        self,
        opener: HopOpener,
        view: SwarmView,
        options: ClientOptions,
        blocks: BlockRange,
        max_length: int,
        batch: int,
        *,
        now: Clock,
        new_id: Callable[[], str],
        history: Budget | None = None,
    ) -> None:
        self.position = 0
        self.failovers = 0
        self._opener, self._view, self._options, self._blocks = opener, view, options, blocks
        self._max_length, self._batch, self._new_id = max_length, batch, new_id
        self._histories = Histories(Budget(options.history_bytes, history))
        self._watch = StepWatch(view, now)
        parts = (opener, view, self._watch, self._histories, options)
        self._spares = Spares(*parts, now=now, new_id=new_id)
        self._recovery = Recovery(*parts, self._spares, now=now, new_id=new_id)
        self._keeper: SessionKeeper | None = None
        self._changing = asyncio.Lock()  # held while the chain is driven or repaired
        self._now = now
        self._hops: list[LiveHop] = []
        self._driving: asyncio.Task[Floats] | None = None  # the last step, until all hops have answered
        self._stepping = False

    @property
    def hops(self) -> list[Hop]:
        """The chain as it is now, first hop first."""
        return [live.hop for live in self._hops]

    async def open(self) -> None:
        """Connect to a chain. Raises ``Unreachable``."""
        self._keeper = SessionKeeper(
            lambda: self._hops, self._repair, self._tend, self._view, self._watch, self._now
        )
        self._take_in(await self._opener.open(self._blocks, set(), look_again=True), 0, 0)

    async def step(self, hidden: Floats, rows: Sequence[int] | None = None) -> Floats:
        """hidden [batch, n, hidden] float32 through every hop, appended at ``position``.

        ``rows`` (hypo_ids): before that, row i of every cache becomes what row ``rows[i]`` was. Raises
        ``UsageError`` and ``CapacityError`` for what does not fit, ``RpcError`` for an error that a server
        reported, and for a hop that nobody can replace ``Unreachable``, or what was wrong with its answer;
        each names its server. After an error ``position`` is what it was, and the same step may be tried
        again.
        """
        self._check(hidden, rows)
        if self._stepping:
            raise UsageError("the last step of this session has not been answered yet")
        assert self._keeper is not None, "an open session has a keeper"
        self._stepping = True
        self._keeper.step_begins()
        hidden = np.ascontiguousarray(hidden, dtype=np.float32)
        try:
            async with asyncio.timeout(self._options.step_timeout), self._changing:
                await self._settle()
                step = Step(self._new_id(), self.position, None if rows is None else tuple(rows))
                self._spares.before(step)
                output = await self._run(step, hidden)
        except TimeoutError:
            limit = f"{self._options.step_timeout:g} s"
            raise Unreachable(f"a step through {self._chain_text()} took longer than {limit}") from None
        else:
            self.position += hidden.shape[1]
            return output
        finally:
            self._stepping = False
            self._keeper.step_ends()

    async def rollback(self, length: int) -> None:
        """Forget all but the first ``length`` positions; the servers do so with the next step."""
        if not 0 <= length <= self.position:
            raise UsageError(f"cannot roll a session at position {self.position} back to {length}")
        self.position = length

    async def close(self) -> None:
        """End the session at every hop."""
        if self._keeper is not None:
            await self._keeper.close()
        await self._stop_driving()
        hops, self._hops = self._hops, []
        await self._spares.close()
        await close_all(hops)
        self._histories.keep_only(())

    # --- a step -----------------------------------------------------------------------------------

    async def _run(self, step: Step, hidden: Floats) -> Floats:
        """The last hop's answer, which may come before those of hops that are on the way."""
        self._expect_pushes(step, hidden.shape)
        early = self._hops[-1].awaits(step)
        if early is None:
            return await self._drive(step, hidden)
        self._driving = asyncio.ensure_future(self._drive(step, hidden))
        try:
            await asyncio.wait([self._driving, early], return_when=asyncio.FIRST_COMPLETED)
            if early.done() and early.exception() is None:
                return early.result()
            return await self._driving
        except BaseException:
            await self._stop_driving()
            raise

    async def _settle(self) -> None:
        """Wait until every hop has answered the last step, so that all histories are complete."""
        if self._driving is not None:
            try:
                await self._driving
            finally:
                await self._stop_driving()

    async def _stop_driving(self) -> None:
        driving, self._driving = self._driving, None
        if driving is not None:
            driving.cancel()
            await asyncio.wait([driving])
            if not driving.cancelled():
                driving.exception()  # looked at

    async def _drive(self, step: Step, hidden: Floats) -> Floats:
        """Bring the step through hop after hop, and lost ones back."""
        index = 0
        try:
            while index < len(self._hops):
                live = self._hops[index]
                self._histories.at(live.hop.blocks.start).record(step, hidden)
                try:
                    output = await self._pass(index, step, hidden)
                except KwaaiNetError as error:
                    await self._replace(index, error, step)
                    continue
                self._view.served(live.hop.peer)
                hidden, index = output, index + 1
        finally:
            for live in self._hops[index + 1 :]:  # a push that never comes would leave them out of step
                if (answer := live.awaits(step)) is not None and not answer.done():
                    live.retire("the step before it failed")
        return hidden

    async def _pass(self, index: int, step: Step, hidden: Floats) -> Floats:
        """One step of one hop, which a server may have pushed to it already."""
        live = self._hops[index]
        behind = live.position > step.position and live.awaits(step) is None
        if behind and not self._view.can_roll_back(live.hop.peer):
            live.retire("it cannot roll back")
        answer = live.awaits(step) or live.expect(hidden.shape, step)
        if not answer.done():
            if step.rows is not None and live.replayed_in == step.step_id:
                # the history was replayed with its rows in order; those behind still have to reorder theirs
                await live.send(hidden, Step(step.step_id, step.position))
            else:
                await live.send(hidden, step, self._next_servers(index, step))
        return await self._watch.answer(live, answer, hidden.shape[0] * hidden.shape[1])

    def _expect_pushes(self, step: Step, shape: tuple[int, ...]) -> None:
        """Servers may push the step to the hops that know their session and stand where it starts."""
        for before, live in pairwise(self._hops):
            if not live.machine.opened or live.failure is not None or live.position != step.position:
                break
            if self._pushes(before, live):
                live.expect(shape, step)

    def _pushes(self, before: LiveHop, live: LiveHop) -> bool:
        """Whether ``before`` is to push to ``live``."""
        if self._options.push != "auto":
            return self._options.push == "on"
        return self._view.push_saves(before.hop.peer, live.hop.peer) > PUSH_PAYS

    def _next_servers(self, index: int, step: Step) -> list[NextServer]:
        """To whom the output of this hop may be pushed."""
        servers: list[NextServer] = []
        for live in self._hops[index + 1 :]:
            if live.failure is not None or live.awaits(step) is None:
                break
            servers.append(live.next_server)
        return servers

    async def _replace(self, index: int, error: KwaaiNetError, step: Step) -> None:
        """Put a chain that knows the history in the place of a lost hop; raises if it is not lost."""
        lost = self._hops[index]
        if lost.reason is None:
            raise named(lost.hop, error) from error
        if not lost.blameless:
            self._view.failed(lost.hop.peer, lost.reason, str(error))
            self.failovers += 1
        await lost.close()
        try:
            hops = await self._recovery.replace(lost, step)
        except Unreachable as nobody:
            told = named(lost.hop, error, f"; {nobody}")
            raise told if lost.reason is Reason.FAULTY else Unreachable(str(told)) from error
        self._take_in(hops, index, index + 1)
        self._histories.keep_only([live.hop.blocks.start for live in self._hops])
        log.info("server %s is replaced by %s", lost.hop.peer, ", ".join(str(one.hop.peer) for one in hops))

    def _take_in(self, hops: Sequence[LiveHop], start: int, end: int) -> None:
        """Put ``hops`` where those from ``start`` to ``end`` were."""
        self._hops[start:end] = hops
        for live in hops:
            live.on_failure = self._keeper.hop_failed if self._keeper is not None else live.on_failure

    # --- between steps, for the keeper ------------------------------------------------------------

    async def _repair(self) -> None:
        """Replace what was lost since the last step, ahead of the next."""
        async with self._changing:
            if self._driving is not None:
                await asyncio.wait([self._driving])
            step = Step(self._new_id(), self.position)
            for live in list(self._hops):
                if live.failure is not None and live.reason is not None:
                    await self._replace(self._hops.index(live), live.failure, step)

    async def _tend(self) -> None:
        if self._options.spare:
            await self._spares.tend(self.hops, self.position)

    # --- words ------------------------------------------------------------------------------------

    def _check(self, hidden: Floats, rows: Sequence[int] | None) -> None:
        if not self._hops:
            raise UsageError("the session is closed")
        if hidden.ndim != 3 or hidden.shape[0] != self._batch or hidden.shape[1] < 1:
            raise UsageError(f"a step of shape {hidden.shape}; [{self._batch}, n, hidden] is expected")
        if self.position + hidden.shape[1] > self._max_length:
            raise CapacityError(
                f"the session holds {self.position} of {self._max_length} positions; "
                f"{hidden.shape[1]} more do not fit"
            )
        if rows is not None and (len(rows) != self._batch or not all(0 <= row < self._batch for row in rows)):
            raise UsageError(f"rows {list(rows)[:16]} do not reorder a batch of {self._batch}")

    def _chain_text(self) -> str:
        return ", then ".join(f"{hop.peer} (blocks {hop.blocks})" for hop in self.hops)

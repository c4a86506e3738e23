"""A running session: hidden states go in at the first hop, come out of the last, and lost hops are replaced.

Follows Petals' client/inference_session.py in what a step is; unlike there, the inputs of every hop are kept
and replayed into its replacement. Rule of the file: a server is replaced when it is gone, silent or wrong,
never because it reported an error; what a step has computed elsewhere is not computed again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import numpy as np

from ..errors import CapacityError, KwaaiNetError, Unreachable, UsageError
from ..inference.chain import Step
from ..inference.history import Budget, History
from ..ports import Clock, Floats
from ..swarm.routing import Hop
from ..types import BlockRange, PeerId
from .client_options import ClientOptions
from .hop_opener import HopOpener, close_all
from .live_hop import LiveHop
from .swarm_view import SwarmView

log = logging.getLogger(__name__)

RETRY_PAUSE = 0.5  # seconds between looks for somebody who holds lost blocks


class ChainSession:
    """``max_length`` positions of ``batch`` rows through ``blocks``; made by ``Client.session``."""

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
        self._max_length, self._batch = max_length, batch
        self._now, self._new_id = now, new_id
        self._budget = Budget(options.history_bytes, history)
        self._histories: dict[int, History] = {}  # first block of a hop -> what goes into it
        self._hops: list[LiveHop] = []
        self._stepping = False

    @property
    def hops(self) -> list[Hop]:
        """The chain as it is now, first hop first."""
        return [live.hop for live in self._hops]

    async def open(self) -> None:
        """Connect to a chain. Raises ``Unreachable``."""
        self._hops = await self._opener.open(self._blocks, set())

    async def step(self, hidden: Floats, rows: Sequence[int] | None = None) -> Floats:
        """hidden [batch, n, hidden] float32 through every hop, appended at ``position``.

        ``rows`` (hypo_ids): before that, row i of every cache becomes what row ``rows[i]`` was. Raises
        ``UsageError`` and ``CapacityError`` for what does not fit, ``RpcError`` for an error that a server
        reported, and what made a hop fail if nobody can replace it; each names its server. After an
        error ``position`` is what it was, and the same step may be tried again.
        """
        self._check(hidden, rows)
        if self._stepping:
            raise UsageError("the last step of this session has not been answered yet")
        self._stepping = True
        step = Step(self._new_id(), self.position, None if rows is None else tuple(rows))
        try:
            async with asyncio.timeout(self._options.step_timeout):
                output = await self._run(step, np.ascontiguousarray(hidden, dtype=np.float32))
        except TimeoutError:
            limit = f"{self._options.step_timeout:g} s"
            raise Unreachable(f"a step through {self._chain_text()} took longer than {limit}") from None
        finally:
            self._stepping = False
        self.position += hidden.shape[1]
        return output

    async def rollback(self, length: int) -> None:
        """Forget all but the first ``length`` positions; the servers do so with the next step."""
        if not 0 <= length <= self.position:
            raise UsageError(f"cannot roll a session at position {self.position} back to {length}")
        self.position = length

    async def close(self) -> None:
        """End the session at every hop."""
        hops, self._hops = self._hops, []
        await close_all(hops)
        for history in self._histories.values():
            history.release()

    # --- a step -----------------------------------------------------------------------------------

    async def _run(self, step: Step, hidden: Floats) -> Floats:
        index = 0
        while index < len(self._hops):
            live = self._hops[index]
            self._history(live.hop.blocks.start).record(step, hidden)
            try:
                output = await self._pass(live, step, hidden)
            except KwaaiNetError as error:
                await self._replace(index, error, step)
                continue
            self._view.served(live.hop.peer)
            hidden, index = output, index + 1
        return hidden

    async def _pass(self, live: LiveHop, step: Step, hidden: Floats) -> Floats:
        """One step of one hop; the rows of a replayed history are in order already."""
        if live.replayed_in == step.step_id:
            step = Step(step.step_id, step.position)
        return await live.run(hidden, step, self._options.step_timeout)

    def _history(self, block: int) -> History:
        return self._histories.setdefault(block, History(self._budget))

    # --- fail-over --------------------------------------------------------------------------------

    async def _replace(self, index: int, error: KwaaiNetError, step: Step) -> None:
        """Put a chain that knows the history in the place of a lost hop; raises if it is not lost."""
        lost = self._hops[index]
        reason = lost.reason
        if reason is None:
            raise _named(lost.hop, error) from error
        self._view.failed(lost.hop.peer, reason, str(error))
        self.failovers += 1
        await lost.close()
        try:
            hops = await self._recover(lost.hop, step)
        except Unreachable as nobody:
            raise _named(lost.hop, error, f"; {nobody}") from error
        self._hops[index : index + 1] = hops
        starts = {live.hop.blocks.start for live in self._hops}
        for block in self._histories.keys() - starts:
            self._histories.pop(block).release()
        log.info("server %s is replaced by %s", lost.hop.peer, ", ".join(str(one.hop.peer) for one in hops))

    async def _recover(self, lost: Hop, step: Step) -> list[LiveHop]:
        """Hops for the blocks of ``lost``, with the history replayed. Raises ``Unreachable``."""
        give_up = self._now() + self._options.patience
        avoid: set[PeerId] = {lost.peer}
        while True:
            try:
                hops = await self._opener.open(lost.blocks, avoid)
            except Unreachable:
                if self._now() >= give_up:
                    raise
                await asyncio.sleep(RETRY_PAUSE)
                await self._view.renew()
                avoid.clear()
                continue
            failed = await self._replay(hops, step)
            if failed is None:
                return hops
            await close_all(hops)
            assert failed.failure is not None
            if failed.reason is None:
                raise _named(failed.hop, failed.failure)
            avoid.add(failed.hop.peer)
            self._view.failed(failed.hop.peer, failed.reason, str(failed.failure))

    async def _replay(self, hops: Sequence[LiveHop], step: Step) -> LiveHop | None:
        """Bring new hops to where the step starts; returns the one that failed, if one did."""
        first = hops[0].hop.blocks.start
        for live in hops[1:]:
            self._history(live.hop.blocks.start).start_again(step)
        position = 0
        for piece in self._histories[first].pieces(0, step.position, self._options.replay_tokens):
            hidden = piece
            for live in hops:
                if live is not hops[0]:
                    self._histories[live.hop.blocks.start].append(hidden)
                try:
                    hidden = await live.run(
                        hidden, Step(self._new_id(), position), self._options.step_timeout
                    )
                except KwaaiNetError:
                    return live
            position += piece.shape[1]
        for live in hops:
            live.replayed_in = step.step_id
        return None

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


def _named(hop: Hop, error: KwaaiNetError, more: str = "") -> KwaaiNetError:
    """The same kind of error, with the name of the server that caused it."""
    return type(error)(f"server {hop.peer} (blocks {hop.blocks}) failed: {error}{more}")

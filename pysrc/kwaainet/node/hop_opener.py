"""Opens the hops of a chain for one session.

A server that takes longer than its usual round trip explains is doubted: another chain is opened beside it
where there is one, and the first that stands is taken. Rule of the file: who cannot be reached is reported
and routed around; what comes out is a chain whose streams are all open, and nothing else stays open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from ..errors import KwaaiNetError, Unreachable
from ..inference.chain import HopSession
from ..ports import Host
from ..swarm import blocks as naming
from ..swarm.health import Reason
from ..swarm.routing import Hop
from ..types import BlockRange, PeerId
from .live_hop import LiveHop, loss_reason
from .swarm_view import SwarmView

OPEN_TIMEOUT = 15.0  # seconds to find and dial a server and open its stream, where nobody can replace it
DOUBT_FLOOR = 0.5  # seconds after which another chain is opened as well: no less,
DOUBT_ROUND_TRIPS = 10.0  # so many times the usual round trip, as dialling takes several,
UNKNOWN_DOUBT = 2.0  # and this where none is known
MAX_CHAINS = 3  # opened side by side
PROTOCOL = "TransformerConnectionHandler.rpc_inference"


class HopOpener:
    """For sessions of ``batch`` rows of up to ``max_length`` positions."""

    def __init__(
        self,
        host: Host,
        view: SwarmView,
        prefix: str,
        new_id: Callable[[], str],
        max_length: int,
        batch: int,
    ) -> None:
        self._host, self._view, self._prefix, self._new_id = host, view, prefix, new_id
        self._max_length, self._batch = max_length, batch

    async def open(
        self, blocks: BlockRange, avoid: set[PeerId], *, look_again: bool = False
    ) -> list[LiveHop]:
        """A chain through ``blocks`` without ``avoid``, to which those that fail are added.

        Raises ``Unreachable`` when nobody is left to try; before that, ``look_again`` looks once more
        at the swarm, whose servers may be others by now.
        """
        failures: list[str] = []
        late: dict[PeerId, float] = {}  # seconds that each was given
        opening: list[_Opening] = []
        try:
            while True:
                doubt = None
                try:
                    if len(opening) < MAX_CHAINS:
                        route = await self._view.route(
                            blocks, self._max_length * self._batch, avoid | late.keys()
                        )
                        opening.append(_Opening(route, self._open))
                        doubt = max(self._doubt(hop.peer) for hop in route)
                except Unreachable as error:
                    if not opening and look_again:
                        look_again = False
                        await self._view.renew()
                        continue
                    if not opening:
                        raise (_nobody(blocks, failures) if failures else error) from error
                done = await _first(opening, doubt)
                if done is None:
                    late |= dict.fromkeys(opening[-1].unopened, doubt or 0.0)
                    continue
                opening.remove(done)
                if not done.failed:
                    self._blame(opening, late)
                    return done.hops
                await close_all(done.hops)
                for hop, failure in done.failed:
                    failures.append(f"server {hop.peer}: {failure}")
                    avoid.add(hop.peer)
                    self._view.failed(hop.peer, loss_reason(failure) or Reason.GONE, str(failure))
        finally:
            await asyncio.gather(*(one.abandon() for one in opening))

    def _doubt(self, peer: PeerId) -> float:
        """Seconds after which a server is late."""
        usual = self._view.round_trip(peer)
        return UNKNOWN_DOUBT if usual is None else max(DOUBT_FLOOR, DOUBT_ROUND_TRIPS * usual)

    def _blame(self, losers: Iterable[_Opening], late: dict[PeerId, float]) -> None:
        """Leave alone for a while who was late and has still not opened while others have."""
        for peer in {peer: None for one in losers for peer in one.unopened if peer in late}:
            text = f"it did not open a session within {late[peer]:.2g} s, when another did"
            self._view.failed(peer, Reason.GONE, text)

    async def _open(self, hop: Hop) -> LiveHop | KwaaiNetError:
        try:
            stream = await self._host.open_stream(hop.peer, PROTOCOL, timeout=OPEN_TIMEOUT)
        except TimeoutError:
            return Unreachable(f"it did not open a session within {OPEN_TIMEOUT:g} s")
        except KwaaiNetError as error:
            return error
        uid = naming.join(self._prefix, hop.blocks)
        return LiveHop(hop, stream, HopSession(uid, self._new_id(), self._max_length))


class _Opening:
    """A chain whose hops are opened side by side."""

    def __init__(
        self,
        route: Sequence[Hop],
        open_one: Callable[[Hop], Coroutine[Any, Any, LiveHop | KwaaiNetError]],
    ) -> None:
        self._hops = [(hop, asyncio.ensure_future(open_one(hop))) for hop in route]
        waiting = asyncio.wait([task for _, task in self._hops])
        self.finished: asyncio.Future[Any] = asyncio.ensure_future(waiting)

    @property
    def hops(self) -> list[LiveHop]:
        """Those that are open, first hop first."""
        return [outcome for _, outcome in self._outcomes() if isinstance(outcome, LiveHop)]

    @property
    def failed(self) -> list[tuple[Hop, KwaaiNetError]]:
        """Those that cannot be opened, and why."""
        return [(hop, outcome) for hop, outcome in self._outcomes() if isinstance(outcome, KwaaiNetError)]

    @property
    def unopened(self) -> list[PeerId]:
        """Who has not opened a session, whether it failed or is late."""
        return [
            hop.peer for hop, task in self._hops if not (task.done() and isinstance(task.result(), LiveHop))
        ]

    async def abandon(self) -> None:
        """Whoever gives up waiting leaves no stream behind."""
        self.finished.cancel()
        tasks = [task for _, task in self._hops]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await close_all(self.hops)

    def _outcomes(self) -> list[tuple[Hop, LiveHop | KwaaiNetError]]:
        return [(hop, task.result()) for hop, task in self._hops if task.done() and not task.cancelled()]


async def _first(opening: Sequence[_Opening], seconds: float | None) -> _Opening | None:
    """The first to be finished; ``None`` if none is within so many seconds."""
    await asyncio.wait(
        [one.finished for one in opening], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
    )
    return next((one for one in opening if one.finished.done()), None)


def _nobody(blocks: BlockRange, failures: Sequence[str]) -> Unreachable:
    tried = f"{len(failures)} tried: {'; '.join(failures)[:2000]}"
    return Unreachable(f"nobody announced for blocks {blocks} can be reached ({tried})")


async def close_all(hops: Iterable[LiveHop]) -> None:
    """End the session at each of them."""
    await asyncio.gather(*(hop.close() for hop in hops))

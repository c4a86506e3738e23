"""Opens the hops of a chain for one session. Rule of the file: who cannot be reached is reported and
routed around; what comes out is a chain whose streams are all open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from ..errors import KwaaiNetError, Unreachable
from ..inference.chain import HopSession
from ..ports import Host
from ..swarm import blocks as naming
from ..swarm.health import Reason
from ..swarm.routing import Hop
from ..types import BlockRange, PeerId
from .live_hop import LiveHop, loss_reason
from .swarm_view import SwarmView

OPEN_TIMEOUT = 15.0  # seconds to find and dial a server and open its stream
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
        while True:
            try:
                route = await self._view.route(blocks, self._max_length * self._batch, avoid)
            except Unreachable as error:
                if look_again:
                    look_again = False
                    await self._view.renew()
                    continue
                if not failures:
                    raise
                tried = f"{len(failures)} tried: {'; '.join(failures)[:2000]}"
                raise Unreachable(f"nobody announced for blocks {blocks} can be reached ({tried})") from error
            opened = await self._open_all(route)
            hops = [one for one in opened if isinstance(one, LiveHop)]
            if len(hops) == len(route):
                return hops
            await close_all(hops)
            for hop, outcome in zip(route, opened, strict=True):
                if isinstance(outcome, KwaaiNetError):
                    failures.append(f"server {hop.peer}: {outcome}")
                    avoid.add(hop.peer)
                    self._view.failed(hop.peer, loss_reason(outcome) or Reason.GONE, str(outcome))

    async def _open_all(self, route: Sequence[Hop]) -> list[LiveHop | KwaaiNetError]:
        """Side by side; who gives up waiting leaves no stream behind."""
        opening = [asyncio.ensure_future(self._open(hop)) for hop in route]
        try:
            return list(await asyncio.gather(*opening))
        except BaseException:
            for task in opening:
                task.cancel()
            await asyncio.wait(opening)
            done = [task.result() for task in opening if not task.cancelled() and task.exception() is None]
            await close_all(one for one in done if isinstance(one, LiveHop))
            raise

    async def _open(self, hop: Hop) -> LiveHop | KwaaiNetError:
        try:
            stream = await self._host.open_stream(hop.peer, PROTOCOL, timeout=OPEN_TIMEOUT)
        except TimeoutError:
            return Unreachable(f"it did not open a session within {OPEN_TIMEOUT:g} s")
        except KwaaiNetError as error:
            return error
        uid = naming.join(self._prefix, hop.blocks)
        return LiveHop(hop, stream, HopSession(uid, self._new_id(), self._max_length))


async def close_all(hops: Iterable[LiveHop]) -> None:
    """End the session at each of them."""
    await asyncio.gather(*(hop.close() for hop in hops))

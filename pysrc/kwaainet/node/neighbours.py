"""How far the servers are that a chain may go to after us: what ``ServerInfo.next_pings`` says.

Follows Petals' ``ModuleAnnouncerThread`` (server/server.py) and ``PingAggregator`` (utils/ping.py): a
sample of those that hold the block after our last one, round trips smoothed exponentially. Rule of the
file: a server that does not answer is infinitely far, and nobody waits longer for it than is stated.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from ..errors import KwaaiNetError, RpcError
from ..ports import Clock, Host
from ..types import PeerId, ServerState
from ..wire.messages import PingRequest
from .directory import ReadServers
from .rpc import PING

log = logging.getLogger(__name__)

MAX_PINGED = 5  # servers pinged at a time, as Petals does
PING_TIMEOUT = 5.0  # seconds
SMOOTHING = 0.2  # share of the newest round trip
EXPIRATION = 300.0  # seconds after which a round trip is no longer told
MAX_KEPT = 32  # round trips; Petals' clients read them all


class Neighbours:
    """Round trips in seconds to the servers after our last block. Without ``read_servers`` there are none."""

    def __init__(
        self, host: Host, read_servers: ReadServers | None, now: Clock, chance: Callable[[], float]
    ) -> None:
        self._host, self._read_servers, self._now, self._chance = host, read_servers, now, chance
        self._known: dict[PeerId, tuple[float, float]] = {}  # round trip, expiration

    def pings(self) -> dict[str, float]:
        """By peer, as ``ServerInfo`` has them."""
        now = self._now()
        self._known = {peer: known for peer, known in self._known.items() if known[1] > now}
        newest = sorted(self._known.items(), key=lambda item: -item[1][1])[:MAX_KEPT]
        return {str(peer): round_trip for peer, (round_trip, _) in newest}

    async def measure(self, prefix: str, block: int, timeout: float) -> None:
        """Ping a sample of the servers of ``block``. Never raises."""
        if self._read_servers is None:
            return
        try:
            async with asyncio.timeout(timeout):
                records = await self._read_servers(prefix, block + 1)
        except (KwaaiNetError, TimeoutError) as error:
            log.debug("the servers of %s.%d cannot be read: %s", prefix, block, error)
            return
        online = [peer for peer, info in records[block].items() if info.state == ServerState.ONLINE]
        others = sorted((peer for peer in online if peer != self._host.peer_id), key=lambda _: self._chance())
        await asyncio.gather(*(self._ping(peer) for peer in others[:MAX_PINGED]))

    async def _ping(self, peer: PeerId) -> None:
        started = asyncio.get_running_loop().time()
        try:
            await self._host.call(peer, PING, PingRequest().encode(), timeout=PING_TIMEOUT)
        except RpcError:
            pass  # it answered, if only that it does not want to
        except (KwaaiNetError, TimeoutError):
            started = -math.inf
        round_trip = asyncio.get_running_loop().time() - started
        before, _ = self._known.get(peer, (math.inf, 0.0))
        if math.isfinite(before):
            round_trip = SMOOTHING * round_trip + (1 - SMOOTHING) * before
        self._known[peer] = round_trip, self._now() + EXPIRATION

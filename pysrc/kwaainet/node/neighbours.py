"""How far the servers are that a chain may go to after us: what ``ServerInfo.next_pings`` says.

Follows Petals' ``ModuleAnnouncerThread`` (server/server.py) and ``PingAggregator`` (utils/ping.py): a
sample of those that hold the block after our last one, and one of those with which a chain may go on from
amid ours; round trips smoothed exponentially. Rule of the file: a server that does not answer is infinitely
far, and nobody waits longer for it than is stated.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence

from ..errors import KwaaiNetError, RpcError
from ..ports import Clock, Host
from ..swarm.server_info import ServerInfo
from ..types import BlockRange, PeerId, ServerState
from ..wire.messages import PingRequest
from .directory import ReadServers
from .rpc import PING

log = logging.getLogger(__name__)

MAX_PINGED = 5  # servers of either sample, as with Petals
PING_TIMEOUT = 5.0  # seconds
SMOOTHING = 0.2  # share of the newest round trip
EXPIRATION = 300.0  # seconds after which a round trip is no longer told
MAX_KEPT = 32  # round trips; Petals' clients read them all


class Neighbours:
    """Round trips in seconds to servers after our first block. Without ``read_servers`` there are none."""

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

    async def measure(self, prefix: str, ours: BlockRange, num_blocks: int, timeout: float) -> None:
        """Ping a sample of those who hold a block after the first of ``ours``. Never raises."""
        end = min(ours.end + 1, num_blocks)
        if self._read_servers is None or end <= ours.start + 1:
            return
        try:
            async with asyncio.timeout(timeout):
                records = await self._read_servers(prefix, end)
        except (KwaaiNetError, TimeoutError) as error:
            log.debug("the servers of %s.%d cannot be read: %s", prefix, end - 1, error)
            return
        amid, after = records[ours.start + 1 : ours.end], records[ours.end : end]
        chosen = dict.fromkeys([*self._sample(amid), *self._sample(after)])
        await asyncio.gather(*(self._ping(peer) for peer in chosen))

    def _sample(self, records: Sequence[Mapping[PeerId, ServerInfo]]) -> list[PeerId]:
        """Some of the others that are online."""
        online = {
            peer: None
            for record in records
            for peer, info in record.items()
            if info.state == ServerState.ONLINE and peer != self._host.peer_id
        }
        return sorted(online, key=lambda _: self._chance())[:MAX_PINGED]

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

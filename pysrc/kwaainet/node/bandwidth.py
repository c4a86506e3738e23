"""How many bits a second go between a server and its relay: what ``ServerInfo.network_rps`` is made of.

Follows Petals' ``measure_network_rps`` (server/throughput.py): the slower of both ways counts. Both ends of
``RelayProtocol.rpc_transfer``, whose request says in 4 bytes, big-endian, how many the reply shall have; what
follows is ballast. Rule of the file: an empty transfer is subtracted, so that only the rate counts; a
transfer is no larger than it must be, and nobody can have the relay send more than stated.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable, Sequence

from ..errors import KwaaiNetError, RequestError
from ..ports import Clock, Host
from ..types import PeerId
from .rate_limit import RateLimit

log = logging.getLogger(__name__)

PROTOCOL = "RelayProtocol.rpc_transfer"
SIZES = tuple(1 << power for power in (14, 16, 18))  # bytes, tried one after the other
ENOUGH = 0.02  # seconds beyond an empty transfer after which no larger one is needed
EMPTY = 3  # transfers of nothing, of which the quickest counts
TIMEOUT = 10.0  # seconds of one transfer
PERIOD = 600.0  # seconds between measurements: 4 kB a second at most
RETRY = 60.0  # seconds after one that failed
SMOOTHING = 0.2  # share of the newest figure
MOST = 1e11  # bits per second; where a transfer took no time at all
MAX_PER_MINUTE = 60  # transfers of one peer: a tab that starts six times needs no more
MAX_PEERS = 4096  # peers whose transfers one relay counts
_SIZE = struct.Struct(">I")


class TransferHandler:
    """The relay's end: swallows what a peer sends and sends what it asks for, zeros."""

    def __init__(self, host: Host, now: Clock) -> None:
        self._now = now
        self._transfers = RateLimit("transfers", MAX_PER_MINUTE, MAX_PEERS)
        host.handle_unary(PROTOCOL, self.rpc_transfer)

    async def rpc_transfer(self, peer: PeerId, request: bytes) -> bytes:
        """As many bytes as are asked for, up to the largest of ``SIZES``."""
        if not _SIZE.size <= len(request) <= _SIZE.size + SIZES[-1]:
            raise RequestError(
                f"a transfer of {len(request)} bytes; 4 to {_SIZE.size + SIZES[-1]} are allowed"
            )
        (size,) = _SIZE.unpack_from(request)
        if size > SIZES[-1]:
            raise RequestError(f"a reply of {size} bytes; up to {SIZES[-1]} are allowed")
        self._transfers.count(peer, self._now())
        return bytes(size)


class Bandwidth:
    """What passes between ``host`` and the first of ``peers`` that speaks the protocol."""

    def __init__(self, host: Host, peers: Sequence[PeerId], now: Clock) -> None:
        self._host, self._peers, self._now = host, peers, now
        self.bits_per_second: float | None = None  # of the slower way; None until it has been measured

    async def keep_measured(self, on_first: Callable[[], Awaitable[None]]) -> None:
        """Measure now and then, for ever; ``on_first`` is awaited after the first figure."""
        while True:
            before = self.bits_per_second
            measured = await self.measure()
            if measured and before is None:
                await on_first()
            await asyncio.sleep(PERIOD if measured else RETRY)

    async def measure(self) -> bool:
        """Measure once; whether anybody let us. Never raises."""
        for peer in self._peers:
            try:
                found = await self._rate(peer)
            except (KwaaiNetError, TimeoutError) as error:
                log.debug("no transfer with %s: %s", peer, error)
                continue
            before = self.bits_per_second or found
            self.bits_per_second = SMOOTHING * found + (1 - SMOOTHING) * before
            return True
        return False

    async def _rate(self, peer: PeerId) -> float:
        empty = min([await self._seconds(peer, 0, 0) for _ in range(EMPTY)])
        up = await self._way(empty, lambda size: self._seconds(peer, size, 0))
        down = await self._way(empty, lambda size: self._seconds(peer, 0, size))
        return min(up, down)

    async def _way(self, empty: float, transfer: Callable[[int], Awaitable[float]]) -> float:
        seconds = 0.0
        for size in SIZES:
            seconds = await transfer(size) - empty
            if seconds >= ENOUGH:
                break
        return min(MOST, 8 * size / seconds) if seconds > 0 else MOST

    async def _seconds(self, peer: PeerId, up: int, down: int) -> float:
        started = self._now()
        await self._host.call(peer, PROTOCOL, _SIZE.pack(down) + bytes(up), timeout=TIMEOUT)
        return self._now() - started

"""What goes through in a second is measured, and measuring costs the relay no more than stated."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kwaainet.errors import LimitExceeded, RpcError
from kwaainet.node import bandwidth
from kwaainet.node.bandwidth import MAX_PER_MINUTE, PERIOD, PROTOCOL, RETRY, SIZES, Bandwidth, TransferHandler
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryNetwork
from kwaainet.types import PeerId

WAY = 0.05  # seconds


class Lines:
    """A tab and its relay, ``up`` and ``down`` bytes a second apart; the network itself carries any size."""

    def __init__(self, up: float, down: float) -> None:
        self.up, self.down = up, down
        self.sizes: list[int] = []
        network = MemoryNetwork(latency=0.0)
        self.relay, self.tab, self.stranger = (network.host() for _ in range(3))
        self._transfer = TransferHandler(self.relay, now).rpc_transfer
        self.relay.handle_unary(PROTOCOL, self.carry)
        self.bandwidth = Bandwidth(self.tab, [self.stranger.peer_id, self.relay.peer_id], now)

    async def carry(self, peer: PeerId, request: bytes) -> bytes:
        self.sizes.append(len(request))
        await asyncio.sleep(WAY + len(request) / self.up)
        reply = await self._transfer(peer, request)
        await asyncio.sleep(WAY + len(reply) / self.down)
        return reply


def between(up: float, down: float, test: Callable[[Lines], Awaitable[None]]) -> None:
    async def main() -> None:
        lines = Lines(up, down)
        for host in (lines.relay, lines.stranger):
            await host.listen()
        await test(lines)

    run(main())


@pytest.mark.parametrize(("up", "down"), [(1e6, 5e6), (5e6, 1e6), (2e5, 2e5)])
def test_the_slower_way_counts_and_the_round_trip_does_not(up: float, down: float) -> None:
    async def test(lines: Lines) -> None:
        assert await lines.bandwidth.measure()
        assert lines.bandwidth.bits_per_second == pytest.approx(8 * min(up, down), rel=0.02)

    between(up, down, test)


def test_a_slow_line_is_sent_no_more_than_says_something() -> None:
    async def test(lines: Lines) -> None:
        await lines.bandwidth.measure()
        assert max(lines.sizes) < SIZES[1]

    between(1e5, 1e5, test)


def test_a_line_that_takes_no_time_has_a_figure_too() -> None:
    async def test(lines: Lines) -> None:
        await lines.bandwidth.measure()
        assert lines.bandwidth.bits_per_second == bandwidth.MOST

    between(1e30, 1e30, test)


def test_it_is_measured_now_and_then_and_the_first_figure_is_told() -> None:
    async def test(lines: Lines) -> None:
        told: list[float] = []

        async def tell() -> None:
            told.append(now())

        lines.relay.handle_unary(PROTOCOL, refuse)
        keeping = asyncio.ensure_future(lines.bandwidth.keep_measured(tell))
        await asyncio.sleep(RETRY - 1)
        assert lines.bandwidth.bits_per_second is None
        lines.relay.handle_unary(PROTOCOL, lines.carry)
        await asyncio.sleep(5)
        assert lines.bandwidth.bits_per_second == pytest.approx(8e6, rel=0.02)
        lines.up = 2e6
        await asyncio.sleep(PERIOD)
        assert lines.bandwidth.bits_per_second == pytest.approx(0.8 * 8e6 + 0.2 * 16e6, rel=0.02)
        assert len(told) == 1
        keeping.cancel()

    between(1e6, 1e9, test)


async def refuse(peer: PeerId, request: bytes) -> bytes:
    raise LimitExceeded("not now")


def test_the_relay_sends_and_takes_only_so_much() -> None:
    async def test(lines: Lines) -> None:
        async def ask(request: bytes) -> bytes:
            return await lines.tab.call(lines.relay.peer_id, PROTOCOL, request, timeout=5)

        for bad in (b"", b"abc", (SIZES[-1] + 1).to_bytes(4), b"\xff" * 4, bytes(SIZES[-1] + 5)):
            with pytest.raises(RpcError, match="allowed"):
                await ask(bad)
        for _ in range(MAX_PER_MINUTE):
            assert len(await ask(SIZES[-1].to_bytes(4))) == SIZES[-1]
        with pytest.raises(RpcError, match="slow down"):
            await ask(bytes(4))

    between(1e30, 1e30, test)

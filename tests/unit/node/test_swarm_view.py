import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from kwaainet.errors import HandshakeError, RequestError, Unreachable
from kwaainet.node.client_options import ClientOptions
from kwaainet.node.swarm_view import FIRST_LOOK, PING, PING_TIMEOUT, SwarmView
from kwaainet.swarm.health import Reason
from kwaainet.swarm.round_trips import RoundTrips
from kwaainet.swarm.routing import UNKNOWN_ROUND_TRIP
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.types import BlockRange, PeerId, ServerState

WHOLE = BlockRange(0, 2)


class Swarm:
    def __init__(self, **options: object) -> None:
        self.network = MemoryNetwork(latency=0.001)
        self.records: list[dict[PeerId, ServerInfo]] = [{}, {}]
        self.reads = 0
        self.failures: list[Exception] = []
        self.host = self.network.host()
        self.view = SwarmView(
            self.host,
            self.read,
            ClientOptions(**options),  # type: ignore[arg-type]
            now=now,
            chance=lambda: 0.5,
        )

    async def read(self) -> Sequence[Mapping[PeerId, ServerInfo]]:
        self.reads += 1
        if self.failures:
            raise self.failures.pop()
        return [dict(record) for record in self.records]

    async def serve(self, delay: float = 0.0, refuse: bool = False, text: str = "0:2") -> MemoryHost:
        host, blocks = self.network.host(), BlockRange.parse(text)

        async def ping(peer: PeerId, request: bytes) -> bytes:
            await asyncio.sleep(delay)
            if refuse:
                raise RequestError("no pings here")
            return b""

        host.handle_unary(PING, ping)
        await host.listen()
        for block in range(blocks.start, blocks.end):
            self.records[block][host.peer_id] = ServerInfo(
                ServerState.ONLINE, 1.0, start_block=blocks.start, end_block=blocks.end
            )
        return host

    async def route(self) -> list[PeerId]:
        return [hop.peer for hop in await self.view.route(WHOLE, 1)]


def swarming(test: Callable[[Swarm], Awaitable[None]], **options: object) -> None:
    async def main() -> None:
        await test(Swarm(**options))

    run(main())


def test_the_nearest_is_chosen_and_measured_once() -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.serve(0.5)
        near = await swarm.serve(0.1, refuse=True)
        for _ in range(3):
            assert await swarm.route() == [near.peer_id]
        assert swarm.reads == 1
        assert swarm.view.round_trips.get(near.peer_id, now()) == pytest.approx(0.104, abs=0.01)

    swarming(test)


def test_the_first_route_waits_for_slow_pings_only_so_long() -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.serve(PING_TIMEOUT + 1)
        there = await swarm.serve()
        started = now()
        assert await swarm.route() == [there.peer_id]
        assert now() - started == pytest.approx(FIRST_LOOK, abs=0.1)

    swarming(test)


def test_a_server_that_answers_no_ping_is_a_last_resort() -> None:
    async def test(swarm: Swarm) -> None:
        gone, there = await swarm.serve(), await swarm.serve(1.0)
        swarm.network.vanish(gone.peer_id)
        assert await swarm.route() == [there.peer_id]
        del swarm.records[0][there.peer_id], swarm.records[1][there.peer_id]
        await swarm.view.renew()
        assert await swarm.route() == [gone.peer_id]
        assert gone.peer_id in swarm.view.health.bans(now())

    swarming(test)


def test_a_failed_server_is_left_out_and_the_swarm_is_looked_at_again() -> None:
    async def test(swarm: Swarm) -> None:
        one, other = await swarm.serve(), await swarm.serve(0.1)
        assert await swarm.route() == [one.peer_id]
        swarm.view.failed(one.peer_id, Reason.FAULTY, "NaN")
        assert await swarm.route() == [other.peer_id]
        await asyncio.sleep(0.5)
        assert swarm.reads == 2
        swarm.view.failed(other.peer_id, Reason.SILENT, "late")
        assert await swarm.route() == [other.peer_id]
        swarm.view.served(one.peer_id)
        assert await swarm.route() == [one.peer_id]

    swarming(test)


def test_an_old_view_is_caught_up_with_before_a_session() -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.view.catch_up()
        assert swarm.reads == 0  # the first route looks by itself
        await swarm.serve()
        await swarm.route()
        await asyncio.sleep(15)
        await swarm.view.catch_up()
        assert swarm.reads == 1
        await asyncio.sleep(10)
        await swarm.view.catch_up()
        assert swarm.reads == 2

    swarming(test, refresh_period=10.0)


def test_servers_to_avoid_or_not_usable_are_never_taken() -> None:
    async def main() -> None:
        swarm = Swarm()
        one, other = await swarm.serve(), await swarm.serve(0.1)
        assert [hop.peer for hop in await swarm.view.route(WHOLE, 1, {one.peer_id})] == [other.peer_id]
        with pytest.raises(Unreachable, match="block 0"):
            await swarm.view.route(WHOLE, 1, {one.peer_id, other.peer_id})
        picky = Swarm(usable=lambda peer: False)
        await picky.serve()
        with pytest.raises(Unreachable, match="block 0"):
            await picky.route()

    run(main())


def test_a_gateway_is_taken_only_where_nobody_else_holds_a_block_and_oneself_never() -> None:
    async def test(swarm: Swarm) -> None:
        gateway = await swarm.serve()
        one = await swarm.serve(0.1, text="0:1")
        for record in swarm.records:
            record[gateway.peer_id] = replace(record[gateway.peer_id], version="1+gateway")
            record[swarm.host.peer_id] = ServerInfo(ServerState.ONLINE, 9.0, start_block=0, end_block=2)
        assert await swarm.route() == [gateway.peer_id]
        other = await swarm.serve(0.1, text="1:2")
        await swarm.view.renew()
        assert await swarm.route() == [one.peer_id, other.peer_id]
        swarm.view.failed(other.peer_id, Reason.GONE, "killed")
        assert await swarm.route() == [gateway.peer_id]

    swarming(test)


def test_the_view_is_kept_fresh_while_it_is_used() -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.serve()
        async with swarm.view.kept_fresh(), swarm.view.kept_fresh():
            await swarm.route()
            swarm.failures.append(HandshakeError("not now"))
            await asyncio.sleep(35)
        assert swarm.reads == 4
        assert len(swarm.view.spans) == 1
        await asyncio.sleep(100)
        assert swarm.reads == 4

    swarming(test, refresh_period=10.0)


def test_who_asks_for_a_look_is_told_why_it_failed() -> None:
    async def test(swarm: Swarm) -> None:
        swarm.failures.append(Unreachable("no DHT"))
        with pytest.raises(Unreachable, match="no DHT"):
            await swarm.route()
        await swarm.serve()
        assert len(await swarm.route()) == 1

    swarming(test)


def test_a_push_saves_the_way_to_us_and_back_less_the_direct_one() -> None:
    async def test(swarm: Swarm) -> None:
        one, other = [(await swarm.serve()).peer_id for _ in range(2)]
        assert swarm.view.push_saves(one, other) == pytest.approx(UNKNOWN_ROUND_TRIP / 2)
        for ping, saved in ((None, 0.04), (0.02, 0.07), (0.5, -0.17), (math.inf, -math.inf)):
            pings = None if ping is None else {str(other): ping}
            swarm.records[0][one] = replace(swarm.records[0][one], next_pings=pings)
            await swarm.view.renew()
            await asyncio.sleep(1.0)  # for the pings of that look
            swarm.view.round_trips = RoundTrips()
            swarm.view.round_trips.add(one, 0.1, now())
            swarm.view.round_trips.add(other, 0.06, now())
            assert swarm.view.push_saves(one, other) == pytest.approx(saved)

    swarming(test)


def test_throughput_routing_draws() -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.serve(text="0:1")
        await swarm.serve(text="1:2")
        assert len(await swarm.route()) == 2

    swarming(test, routing="max_throughput")

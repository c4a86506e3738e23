"""Round trips to the servers that may come after us in a chain."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping, Sequence

import pytest

from kwaainet.errors import Unreachable
from kwaainet.node import neighbours
from kwaainet.node.neighbours import Neighbours
from kwaainet.node.rpc import answer_pings
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.types import BlockRange, PeerId, ServerState


class Swarm:
    """A node whose chain goes on at block 2 with whom ``serve`` has made."""

    def __init__(self) -> None:
        self.network = MemoryNetwork(1, latency=0.1)
        self.host = self.network.host()
        self.records: list[dict[PeerId, ServerInfo]] = [{}, {}, {}]
        self.neighbours = Neighbours(self.host, self.read, now, random.Random(1).random)
        self.failure: Exception | None = None
        self.ours = BlockRange(1, 2)

    async def read(self, prefix: str, num_blocks: int) -> Sequence[Mapping[PeerId, ServerInfo]]:
        if self.failure is not None:
            raise self.failure
        assert (prefix, num_blocks) == ("m", min(3, self.ours.end + 1))
        return self.records

    async def serve(self, state: ServerState = ServerState.ONLINE, block: int = 2) -> MemoryHost:
        host = self.network.host()
        answer_pings(host, now)
        await host.listen()
        self.records[block][host.peer_id] = ServerInfo(state, 1.0, block, block + 1)
        return host

    async def measure(self) -> dict[str, float]:
        await self.neighbours.measure("m", self.ours, 3, 5.0)
        return self.neighbours.pings()


def test_those_after_us_are_pinged_and_nobody_else() -> None:
    async def main() -> None:
        swarm = Swarm()
        after = await swarm.serve()
        await swarm.serve(ServerState.JOINING)
        swarm.records[2][swarm.host.peer_id] = ServerInfo(ServerState.ONLINE, 1.0, 2, 3)
        swarm.records[1] = dict(swarm.records[2])
        pings = await swarm.measure()
        assert list(pings) == [str(after.peer_id)]
        assert 0.1 < pings[str(after.peer_id)] < 0.6

    run(main())


def test_those_with_whom_a_chain_may_go_on_amid_our_blocks_are_pinged_too() -> None:
    async def main() -> None:
        swarm = Swarm()
        first, amid, after = [await swarm.serve(block=block) for block in range(3)]
        for ours, pinged in (((0, 2), {amid, after}), ((1, 3), {after}), ((2, 3), set())):
            swarm.neighbours = Neighbours(swarm.host, swarm.read, now, random.Random(1).random)
            swarm.ours = BlockRange(*ours)
            assert set(await swarm.measure()) == {str(one.peer_id) for one in pinged}, ours
        assert str(first.peer_id) not in swarm.neighbours.pings()

    run(main())


def test_a_sample_of_either_kind_is_pinged() -> None:
    async def main() -> None:
        swarm = Swarm()
        swarm.ours = BlockRange(0, 2)
        for block in (1, 2) * 10:
            await swarm.serve(block=block)
        assert len(await swarm.measure()) == 2 * neighbours.MAX_PINGED

    run(main())


def test_a_server_that_does_not_answer_is_infinitely_far_until_it_does() -> None:
    async def main() -> None:
        swarm = Swarm()
        after = await swarm.serve()
        swarm.network.partition([swarm.host.peer_id], [after.peer_id])
        assert await swarm.measure() == {str(after.peer_id): math.inf}
        swarm.network.heal()
        assert (await swarm.measure())[str(after.peer_id)] < 1

    run(main())


def test_round_trips_are_smoothed() -> None:
    async def main() -> None:
        swarm = Swarm()
        after = str((await swarm.serve()).peer_id)
        first = (await swarm.measure())[after]
        swarm.network.latency = 1.0
        second = (await swarm.measure())[after]
        assert 0.2 * 1.0 + 0.8 * first < second < 0.2 * 3.0 + 0.8 * first

    run(main())


def test_an_old_round_trip_is_forgotten() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.serve()
        assert await swarm.measure()
        await asyncio.sleep(neighbours.EXPIRATION + 1)
        assert swarm.neighbours.pings() == {}

    run(main())


def test_a_sample_is_enough_and_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "MAX_KEPT", 7)

    async def main() -> None:
        swarm = Swarm()
        for _ in range(20):
            await swarm.serve()
        assert len(await swarm.measure()) == neighbours.MAX_PINGED
        for _ in range(10):
            await swarm.measure()
        assert len(swarm.neighbours.pings()) == 7

    run(main())


def test_a_swarm_that_cannot_be_read_costs_nothing() -> None:
    async def main() -> None:
        swarm = Swarm()
        swarm.failure = Unreachable("the relay is gone")
        assert await swarm.measure() == {}
        alone = Neighbours(swarm.host, None, now, lambda: 0.5)
        await alone.measure("m", swarm.ours, 3, 5.0)
        assert alone.pings() == {}

    run(main())

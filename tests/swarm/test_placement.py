"""A swarm that places itself: tabs come and go, and those that stay cover the model without running about.

The real ``Mover``s on a virtual clock; serving is left out: a move takes the time of draining and loading.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import numpy as np
import pytest
from nightly.sizes import size

from kwaainet.node.moving import Mover, Restlessness
from kwaainet.swarm.placement import View
from kwaainet.swarm.server_info import ServerInfo, Span
from kwaainet.testing.clock import now, run
from kwaainet.types import BlockRange, PeerId, ServerState

MOVE_SECONDS = 95.0  # draining 65 s and more, then loading
MINUTE, HOUR = 60.0, 3600.0


class Server:
    """A tab: its speed, how many blocks it holds, and where they are."""

    def __init__(self, swarm: Swarm, length: int, throughput: float) -> None:
        self.swarm, self.length = swarm, length
        self.peer = PeerId(bytes.fromhex("002408011220") + swarm.random.randbytes(32))
        self.info = ServerInfo(ServerState.JOINING, throughput)
        self.mover = Mover(self.peer, swarm.read, swarm.random.random, swarm.restlessness)
        self.moved_at: list[float] = []

    async def live(self) -> None:
        await self.settle(await self.mover.first(self.length))
        await self.mover.run(self.move)

    async def move(self, blocks: BlockRange) -> None:
        self.moved_at.append(now())
        await self.settle(blocks)

    async def settle(self, blocks: BlockRange) -> None:
        self.info = replace(
            self.info, state=ServerState.JOINING, start_block=blocks.start, end_block=blocks.end
        )
        await asyncio.sleep(MOVE_SECONDS)
        self.info = self.info.with_state(ServerState.ONLINE)


class Swarm:
    """What the DHT would say, a second late."""

    def __init__(self, num_blocks: int, seed: int) -> None:
        self.num_blocks, self.random, self.restlessness = num_blocks, random.Random(seed), Restlessness()
        self.servers: dict[Server, asyncio.Task[None]] = {}
        self.all: list[Server] = []

    async def read(self) -> View:
        view = self.view(ServerState.JOINING)
        await asyncio.sleep(1.0)
        return view

    def view(self, min_state: ServerState) -> View:
        placed = [(server, server.info.blocks) for server in self.servers if server.info.state >= min_state]
        spans = [Span(server.peer, blocks, server.info) for server, blocks in placed if blocks is not None]
        return View(self.num_blocks, tuple(sorted(spans, key=lambda span: span.peer.data)))

    def speeds(self) -> np.ndarray:
        """Of those that are online."""
        return self.view(ServerState.ONLINE).speeds()

    def join(self, count: int, lengths: tuple[int, int], throughputs: tuple[float, float]) -> None:
        for _ in range(count):
            server = Server(self, self.random.randint(*lengths), self.random.uniform(*throughputs))
            self.all.append(server)
            self.servers[server] = asyncio.ensure_future(server.live())

    def lose(self, server: Server) -> None:
        self.servers.pop(server).cancel()

    @property
    def bound(self) -> float:
        """No placement makes the slowest block faster than this: all speed, spread evenly."""
        return sum(server.length * server.info.throughput for server in self.servers) / self.num_blocks

    def most_moves(self, since: float = 0.0) -> int:
        return max(sum(moment >= since for moment in server.moved_at) for server in self.all)

    async def covered(self, patience: float) -> float:
        """Seconds until every block is online again."""
        started = now()
        async with asyncio.timeout(patience):
            while self.speeds().min() <= 0:
                await asyncio.sleep(1.0)
        return now() - started

    def end(self) -> None:
        for server in list(self.servers):
            self.lose(server)


@pytest.mark.parametrize("seed", range(1, size(2, 3)))
def test_newcomers_one_after_the_other_cover_and_balance_the_model(seed: int) -> None:
    async def main() -> None:
        swarm = Swarm(32, seed)
        for _ in range(60):
            swarm.join(1, (2, 12), (20.0, 200.0))
            await asyncio.sleep(20.0)
        await asyncio.sleep(HOUR)
        assert swarm.speeds().min() > 0.6 * swarm.bound
        assert swarm.most_moves() <= 4
        swarm.end()

    run(main())


def test_a_crowd_that_comes_at_once_spreads_out() -> None:
    async def main() -> None:
        swarm = Swarm(32, 5)
        swarm.join(50, (2, 12), (20.0, 200.0))
        await asyncio.sleep(HOUR)
        assert swarm.speeds().min() > 0.5 * swarm.bound
        assert swarm.most_moves() <= HOUR / Restlessness().min_stay + 1
        swarm.end()

    run(main())


@pytest.mark.parametrize("seed", range(1, size(2, 3)))
def test_lost_blocks_are_taken_over_by_those_who_can_be_spared(seed: int) -> None:
    async def main() -> None:
        swarm = Swarm(24, seed)
        swarm.join(30, (3, 8), (50.0, 150.0))
        await asyncio.sleep(HOUR)
        holders = [server for server in swarm.servers if server.info.blocks and 7 in server.info.blocks]
        assert holders
        for server in holders:
            swarm.lose(server)
        assert swarm.speeds().min() == 0
        assert await swarm.covered(patience=600.0) > MOVE_SECONDS
        swarm.end()

    run(main())


def test_a_move_uncovers_nothing_that_was_covered() -> None:
    async def main() -> None:
        swarm = Swarm(12, 9)
        swarm.join(25, (2, 8), (10.0, 300.0))
        await swarm.covered(patience=HOUR)
        for _ in range(360):
            await asyncio.sleep(5.0)
            taken = swarm.view(ServerState.JOINING)
            assert taken.speeds().min() > 0, "somebody has each block, or is about to"
        swarm.end()

    run(main())


def test_a_swarm_at_rest_stays_at_rest() -> None:
    async def main() -> None:
        swarm = Swarm(24, 7)
        swarm.join(50, (2, 10), (20.0, 200.0))
        await asyncio.sleep(HOUR)
        settled = now()
        await asyncio.sleep(0.5 * HOUR)
        assert sum(moment >= settled for server in swarm.all for moment in server.moved_at) <= 4
        swarm.end()

    run(main())


@pytest.mark.parametrize("seed", [1])
def test_churn_neither_uncovers_the_model_for_long_nor_makes_servers_run_about(seed: int) -> None:
    """80 tabs of which 2 leave and 2 come a minute, for an hour and a half."""

    async def main() -> None:
        swarm = Swarm(32, seed)
        swarm.join(80, (2, 8), (20.0, 200.0))
        await asyncio.sleep(20 * MINUTE)
        started, uncovered, balance = now(), 0, []
        for _ in range(90):
            await asyncio.sleep(MINUTE)
            uncovered += swarm.speeds().min() <= 0
            balance.append(swarm.speeds().min() / swarm.bound)
            for server in swarm.random.sample(list(swarm.servers), 2):
                swarm.lose(server)
            swarm.join(2, (2, 8), (20.0, 200.0))
        assert uncovered == 0
        assert np.median(balance) > 0.5
        per_hour = sum(len(server.moved_at) for server in swarm.all) / (80 * (now() - started) / HOUR)
        assert per_hour < 1
        swarm.end()

    run(main())

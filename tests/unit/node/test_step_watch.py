"""Who is late: doubted, pinged, and given up only if another can serve."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np
import pytest

from kwaainet.compression.codec import deserialize, serialize
from kwaainet.errors import Unreachable
from kwaainet.inference.chain import HopSession, Step
from kwaainet.node.client_options import ClientOptions
from kwaainet.node.live_hop import LiveHop
from kwaainet.node.step_watch import FRESH_NETWORK, GONE_FLOOR, PING_FLOOR, REACH_FLOOR, StepWatch
from kwaainet.node.swarm_view import PING, SwarmView
from kwaainet.ports import Floats, Stream
from kwaainet.swarm.deadlines import DOUBT_FLOOR, FRESH_FLOOR, GIVE_UP_FLOOR
from kwaainet.swarm.health import Reason
from kwaainet.swarm.routing import Hop
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryNetwork
from kwaainet.types import BlockRange, PeerId, ServerState
from kwaainet.wire.messages import ExpertRequest, ExpertResponse

HIDDEN = np.ones((1, 1, 2), np.float32)
WHOLE = BlockRange(0, 1)


class Watched:
    """A hop whose steps take ``seconds``; with ``rival`` another server announces the same block."""

    def __init__(self, rival: bool) -> None:
        self.seconds = 0.01
        self.answers_pings = True
        self.network = MemoryNetwork(latency=0.001)
        self.host, client = self.network.host(), self.network.host()
        info = ServerInfo(ServerState.ONLINE, 1.0, 0, 1, inference_rps=100.0)
        self.records: list[dict[PeerId, ServerInfo]] = [{self.host.peer_id: info}]
        if rival:
            self.records[0][self.network.host().peer_id] = info
        self.view = SwarmView(client, self.read, ClientOptions(), now=now, chance=lambda: 0.5)
        self.watch = StepWatch(self.view, now)
        self._client = client
        self._count = 0

    async def read(self) -> Sequence[Mapping[PeerId, ServerInfo]]:
        return self.records

    async def open(self) -> LiveHop:
        self.host.handle_stream("x", self.serve)
        self.host.handle_unary(PING, self.ping)
        await self.host.listen()
        await self.view.renew()
        self.view.health.succeed(self.host.peer_id)
        for peer in self.records[0]:
            self.view.health.succeed(peer)
        stream = await self._client.open_stream(self.host.peer_id, "x", timeout=1)
        return LiveHop(Hop(self.host.peer_id, WHOLE), stream, HopSession("m.0", "s", 99))

    async def serve(self, stream: Stream) -> None:
        while message := await stream.receive():
            await asyncio.sleep(self.seconds)
            hidden = deserialize(ExpertRequest.decode(message).tensors[0])
            await stream.send(ExpertResponse(tensors=(serialize(hidden),)).encode())

    async def ping(self, peer: PeerId, request: bytes) -> bytes:
        if not self.answers_pings:
            await asyncio.sleep(1000)
        return b""

    async def step(self, live: LiveHop) -> Floats:
        self._count += 1
        step = Step(str(self._count), 0)
        answer = live.expect(HIDDEN.shape, step)
        await live.send(HIDDEN, step)
        return await self.watch.answer(live, answer, 1)


def watching(test: Callable[[Watched, LiveHop], Awaitable[None]], rival: bool = True) -> None:
    async def main() -> None:
        watched = Watched(rival)
        live = await watched.open()
        for _ in range(3):
            await watched.step(live)
        await test(watched, live)
        await live.close()

    run(main())


def test_who_is_late_and_answers_no_ping_is_given_up() -> None:
    async def test(watched: Watched, live: LiveHop) -> None:
        watched.seconds, watched.answers_pings = 1000.0, False
        started = now()
        with pytest.raises(Unreachable, match="nor to a ping"):
            await watched.step(live)
        assert now() - started == pytest.approx(DOUBT_FLOOR + PING_FLOOR, abs=0.1)
        assert live.reason is Reason.SILENT

    watching(test)


@pytest.mark.parametrize(("announced", "floor"), [(True, REACH_FLOOR), (False, GONE_FLOOR)])
def test_who_falls_silent_altogether_is_given_up_within_a_second(announced: bool, floor: float) -> None:
    async def test(watched: Watched, live: LiveHop) -> None:
        watched.network.freeze(live.hop.peer)
        if not announced:
            del watched.records[0][live.hop.peer]
        started = now()
        with pytest.raises(Unreachable, match="nor to anything else"):
            await watched.step(live)
        assert now() - started == pytest.approx(DOUBT_FLOOR + floor, abs=0.05)
        assert now() - started < 1.0
        assert live.reason is Reason.SILENT

    watching(test)


def test_who_is_no_longer_announced_but_answers_is_left_to_it() -> None:
    """A server that drains, or that the relay lost for a moment."""

    async def test(watched: Watched, live: LiveHop) -> None:
        del watched.records[0][live.hop.peer]
        watched.seconds = 5.0
        await watched.step(live)

    watching(test)


def test_a_python_that_is_busy_is_given_more_time_than_a_network() -> None:
    async def test(watched: Watched, live: LiveHop) -> None:
        watched.seconds, watched.answers_pings = DOUBT_FLOOR + REACH_FLOOR + 0.5, False
        await watched.step(live)

    watching(test)


def test_who_answers_pings_is_given_more_time_but_not_for_ever() -> None:
    async def test(watched: Watched, live: LiveHop) -> None:
        watched.seconds = GIVE_UP_FLOOR - 1.0
        await watched.step(live)
        watched.seconds = 1000.0
        started = now()
        with pytest.raises(Unreachable, match="did not answer within"):
            await watched.step(live)
        assert now() - started >= GIVE_UP_FLOOR
        assert live.reason is Reason.SILENT

    watching(test)


def test_an_answer_that_comes_while_the_ping_is_out_counts() -> None:
    async def test(watched: Watched, live: LiveHop) -> None:
        watched.seconds, watched.answers_pings = DOUBT_FLOOR + PING_FLOOR / 2, False
        await watched.step(live)

    watching(test)


def test_who_cannot_be_replaced_is_waited_for() -> None:
    async def test(watched: Watched, live: LiveHop) -> None:
        watched.seconds, watched.answers_pings = 200.0, False
        await watched.step(live)
        assert live.failure is None

    watching(test, rival=False)


def test_a_fresh_session_is_given_more_time() -> None:
    async def test(watched: Watched, live: LiveHop) -> None:
        fresh = await watched.open()
        watched.seconds, watched.answers_pings = FRESH_FLOOR - 1.0, False
        await watched.step(fresh)
        await fresh.close()

    watching(test)


def test_a_fresh_session_of_a_silent_network_is_given_up_within_about_a_second() -> None:
    async def test(watched: Watched, live: LiveHop) -> None:
        fresh = await watched.open()
        await asyncio.sleep(0.1)  # the rival, who is no real host, has answered no ping
        for peer in watched.records[0]:
            watched.view.health.succeed(peer)
        watched.network.freeze(live.hop.peer)
        started = now()
        with pytest.raises(Unreachable, match="nor to anything else"):
            await watched.step(fresh)
        assert now() - started == pytest.approx(FRESH_NETWORK + REACH_FLOOR, abs=0.05)

    watching(test)


def test_a_lost_hop_is_told_at_once() -> None:
    async def test(watched: Watched, live: LiveHop) -> None:
        assert await watched.watch.is_alive(live)
        watched.network.vanish(live.hop.peer)
        with pytest.raises(Exception, match="connection ended"):
            await watched.step(live)
        assert not await watched.watch.is_alive(live)

    watching(test)

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from kwaainet.errors import Unreachable
from kwaainet.node.client_options import ClientOptions
from kwaainet.node.hop_opener import DOUBT_FLOOR, OPEN_TIMEOUT, PROTOCOL, HopOpener, close_all
from kwaainet.node.swarm_view import PING, SwarmView
from kwaainet.ports import Stream
from kwaainet.swarm.health import Reason
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.types import BlockRange, PeerId, ServerState
from kwaainet.wire.messages import ExpertRequest

WHOLE = BlockRange(0, 2)


class Swarm:
    def __init__(self) -> None:
        self.network = MemoryNetwork(latency=0.001)
        self.records: list[dict[PeerId, ServerInfo]] = [{}, {}]
        self.requests: list[ExpertRequest] = []
        self.open = 0  # sessions at all servers
        client = self.network.host()
        self.view = SwarmView(client, self.read, ClientOptions(), now=now, chance=lambda: 0.5)
        self.opener = HopOpener(client, self.view, "m", lambda: "id", 8, 1)

    async def read(self) -> Sequence[Mapping[PeerId, ServerInfo]]:
        return self.records

    async def serve(self, text: str, speaks: bool = True) -> MemoryHost:
        host, blocks = self.network.host(), BlockRange.parse(text)

        async def ping(peer: PeerId, request: bytes) -> bytes:
            return b""

        async def inference(stream: Stream) -> None:
            self.open += 1
            try:
                while message := await stream.receive():
                    self.requests.append(ExpertRequest.decode(message))
            finally:
                self.open -= 1

        host.handle_unary(PING, ping)
        if speaks:
            host.handle_stream(PROTOCOL, inference)
        await host.listen()
        for block in range(blocks.start, blocks.end):
            self.records[block][host.peer_id] = ServerInfo(
                ServerState.ONLINE, 1.0, start_block=blocks.start, end_block=blocks.end
            )
        return host


def test_a_chain_is_opened() -> None:
    async def main() -> None:
        swarm = Swarm()
        hosts = [await swarm.serve("0:1"), await swarm.serve("1:2")]
        hops = await swarm.opener.open(WHOLE, set())
        assert [live.hop.peer for live in hops] == [host.peer_id for host in hosts]
        await close_all(hops)

    run(main())


def test_who_cannot_be_reached_is_reported_and_routed_around() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.serve("0:1")
        mute = await swarm.serve("0:2", speaks=False)
        last = await swarm.serve("1:2")
        avoid: set[PeerId] = set()
        hops = await swarm.opener.open(WHOLE, avoid)
        assert [str(live.hop.blocks) for live in hops] == ["0:1", "1:2"]
        assert avoid == {mute.peer_id}
        assert swarm.view.health.bans(now())[mute.peer_id].reason is Reason.UNAVAILABLE
        swarm.network.vanish(last.peer_id)
        with pytest.raises(Unreachable, match=r"1 tried: server .*no host"):
            await swarm.opener.open(WHOLE, avoid)
        await close_all(hops)

    run(main())


def test_opening_takes_only_so_long() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.serve("0:2")
        await swarm.view.renew()
        swarm.network.loss = 1.0
        started = now()
        with pytest.raises(Unreachable, match=r"did not open a session within"):
            await swarm.opener.open(WHOLE, set())
        assert now() - started == pytest.approx(OPEN_TIMEOUT, abs=0.1)

    run(main())


def test_servers_that_came_since_the_last_look_are_found() -> None:
    async def main() -> None:
        swarm = Swarm()
        gone = await swarm.serve("0:2")
        await swarm.view.renew()
        swarm.network.vanish(gone.peer_id)
        new = await swarm.serve("0:2")
        hops = await swarm.opener.open(WHOLE, set(), look_again=True)
        assert [live.hop.peer for live in hops] == [new.peer_id]
        await close_all(hops)

    run(main())


def test_a_late_server_is_overtaken_by_another() -> None:
    """It hangs, nothing is closed, and the swarm still announces it."""

    async def main() -> None:
        swarm = Swarm()
        for _ in range(2):
            await swarm.serve("0:1")
            await swarm.serve("1:2")
        await swarm.view.renew()
        first, last = await swarm.opener.open(WHOLE, set())
        await close_all([first, last])
        await asyncio.sleep(1)  # until they know
        swarm.network.freeze(last.hop.peer)
        for longest in (DOUBT_FLOOR + 0.1, 0.1):
            started = now()
            hops = await swarm.opener.open(WHOLE, set())
            assert now() - started < longest
            assert [live.hop.blocks.start for live in hops] == [0, 1]
            assert last.hop.peer not in {live.hop.peer for live in hops}
            await close_all(hops)
        assert "when another did" in swarm.view.health.bans(now())[last.hop.peer].text
        await asyncio.sleep(OPEN_TIMEOUT)
        assert not swarm.open, "a chain that was overtaken is closed"

    run(main())


def test_a_late_server_that_nobody_can_replace_is_waited_for() -> None:
    async def main() -> None:
        swarm = Swarm()
        slow = await swarm.serve("0:2")
        await swarm.view.renew()
        swarm.network.latency = 1.0
        hops = await swarm.opener.open(WHOLE, set())
        assert [live.hop.peer for live in hops] == [slow.peer_id]
        assert not swarm.view.health.bans(now())
        await close_all(hops)

    run(main())

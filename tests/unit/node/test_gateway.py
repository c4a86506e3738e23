"""A gateway before real nodes in memory: one server to its clients, whoever computes and whoever is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np
import pytest

from kwaainet.errors import ConfigError, KwaaiNetError, RpcError, Unreachable
from kwaainet.node.client import Client
from kwaainet.node.config import NodeConfig
from kwaainet.node.gateway import KEPT_INPUTS, Gateway, GatewayConfig
from kwaainet.node.server import ServerNode
from kwaainet.ports import Floats
from kwaainet.swarm.announcement import Announcement
from kwaainet.swarm.coverage import is_gateway
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.faults import FaultyEngine
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange, PeerId, ServerState

MANIFEST, FILES = random_model()
NUM_BLOCKS = TINY.num_hidden_layers
PREFIX = "tiny"
Records = list[dict[PeerId, ServerInfo]]


class Board:
    """What one peer announces, in whatever records are shown to whoever reads them."""

    def __init__(self, peer: PeerId, records: Records) -> None:
        self.peer, self.records = peer, records
        self.said: list[Announcement] = []
        self.failures: list[Exception] = []
        self.seconds = 0.0

    async def announce(self, announcement: Announcement) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.said.append(announcement)
        for block in range(announcement.span.start, announcement.span.end):
            self.records[block][self.peer] = announcement.server
        await asyncio.sleep(self.seconds)  # at others

    def farewell(self) -> bytes:
        return b""

    @property
    def words(self) -> list[str]:
        return [f"{one.server.state.name} {one.span}" for one in self.said]


class Swarm:
    """Tabs whose records the gateway alone reads, and the gateway's own, which clients read."""

    def __init__(self, **options: object) -> None:
        self.network = MemoryNetwork(1, latency=0.002)
        self.random = random.Random(1)
        self.hidden: Records = [{} for _ in range(NUM_BLOCKS)]
        self.public: Records = [{} for _ in range(NUM_BLOCKS)]
        self.nodes: dict[PeerId, ServerNode] = {}
        self.host = self.network.host()
        self.board = Board(self.host.peer_id, self.public)
        self.gateway = Gateway(
            GatewayConfig(PREFIX, answer_ping=True, **options),  # type: ignore[arg-type]
            TINY,
            host=self.host,
            read_servers=self.read_hidden,
            announcer=self.board,
            now=now,
            random_bytes=self.random.randbytes,
        )

    async def read_hidden(self, prefix: str, num_blocks: int) -> Sequence[Mapping[PeerId, ServerInfo]]:
        return [dict(record) for record in self.hidden]

    async def read_public(self, prefix: str, num_blocks: int) -> Sequence[Mapping[PeerId, ServerInfo]]:
        return [dict(record) for record in self.public]

    async def serve(self, span: str) -> PeerId:
        host: MemoryHost = self.network.host()
        node = ServerNode(
            NodeConfig(PREFIX, BlockRange.parse(span)),
            host=host,
            engine=FaultyEngine(),
            store=MemoryStore(),
            source=MemorySource(FILES),
            manifest=MANIFEST,
            announcer=Board(host.peer_id, self.hidden),
            now=now,
        )
        await node.start()
        self.nodes[host.peer_id] = node
        return host.peer_id

    def kill(self, peer: PeerId) -> None:
        """No farewell; the relay notices and takes the records down."""
        self.network.vanish(peer)
        for record in self.hidden:
            record.pop(peer, None)

    async def looked(self) -> None:
        """Longer than the gateway takes to see what changed."""
        await asyncio.sleep(3.0)

    def client(self) -> Client:
        return Client(
            self.network.host(),
            self.read_public,
            PREFIX,
            NUM_BLOCKS,
            now=now,
            random_bytes=self.random.randbytes,
        )


def play(scene: Callable[[Swarm], Awaitable[None]], **options: object) -> None:
    async def main() -> None:
        swarm = Swarm(**options)
        await swarm.host.listen()
        await swarm.gateway.start()
        await scene(swarm)
        await swarm.gateway.stop()
        for node in swarm.nodes.values():
            await node.stop()
        await swarm.host.close()

    run(main())


def inputs(count: int, batch: int = 1) -> list[Floats]:
    draw = np.random.default_rng(3).standard_normal
    prompt = draw((batch, 4, TINY.hidden_size), np.float32)
    return [prompt, *(draw((batch, 1, TINY.hidden_size), np.float32) for _ in range(count))]


async def expected(steps: Sequence[Floats]) -> list[Floats]:
    """The same through one server of all blocks, without a gateway."""
    swarm = Swarm()
    await swarm.serve(f"0:{NUM_BLOCKS}")
    swarm.public = swarm.hidden
    async with swarm.client().session(64, len(steps[0])) as session:
        return [await session.step(hidden) for hidden in steps]


def test_it_is_one_server_of_what_others_hold_together() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.serve("0:2")
        await swarm.serve("2:5")
        await swarm.looked()
        assert swarm.board.words == ["ONLINE 0:5"]
        info = swarm.board.said[0].server
        assert is_gateway(info)
        steps = inputs(3)
        async with swarm.client().session(16) as session:
            assert [hop.peer for hop in session.hops] == [swarm.host.peer_id]
            outputs = [await session.step(hidden) for hidden in steps]
            status = swarm.gateway.status
            assert (status.blocks, status.sessions, status.failovers) == (BlockRange(0, 5), 1, 0)
            assert 0 < status.history_bytes <= status.history_limit
            assert status.tokens_done == 7
        for ours, theirs in zip(outputs, await expected(steps), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        await asyncio.sleep(1)
        assert swarm.gateway.status.history_bytes == 0
        assert swarm.gateway.status.sessions == 0

    play(scene)


def test_the_id_of_a_session_is_in_the_logs_of_all_who_serve_it(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(swarm: Swarm) -> None:
        for span in ("0:2", "2:5"):
            await swarm.serve(span)
        await swarm.looked()
        async with swarm.client().session(16, request_id="chatcmpl-1") as session:
            await session.step(inputs(0)[0])
        await asyncio.sleep(1)

    with caplog.at_level("INFO", "kwaainet.node.inference"):
        play(scene)
    begun = [record for record in caplog.records if "begins" in record.getMessage()]
    assert [vars(record)["request_id"] for record in begun] == ["chatcmpl-1"] * 3, "its own, two servers'"
    assert len({record.getMessage() for record in begun}) == 3


def test_what_it_announces_follows_what_is_held() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.looked()
        assert swarm.board.words == []
        first = await swarm.serve("0:3")
        await swarm.looked()
        second = await swarm.serve("3:5")
        await swarm.looked()
        swarm.kill(first)
        await swarm.looked()
        swarm.kill(second)
        await swarm.looked()
        assert swarm.board.words == [
            "ONLINE 0:3",
            "OFFLINE 0:3",
            "ONLINE 0:5",
            "OFFLINE 0:5",
            "ONLINE 3:5",
            "OFFLINE 3:5",
        ]
        assert swarm.gateway.status.blocks is None

    play(scene)


def test_what_it_announces_does_not_expire_while_it_lasts() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.serve("0:5")
        await asyncio.sleep(200)
        assert swarm.board.words == ["ONLINE 0:5"] * 4
        await swarm.gateway.stop()
        assert swarm.board.words[-1] == "OFFLINE 0:5"

    play(scene)


def test_an_announcement_that_failed_is_made_again() -> None:
    async def scene(swarm: Swarm) -> None:
        swarm.board.failures.append(Unreachable("nobody stores it"))
        await swarm.serve("0:5")
        await swarm.looked()
        await swarm.looked()
        assert swarm.board.words == ["ONLINE 0:5"]

    play(scene)


def test_who_is_stopped_while_announcing_takes_it_down_again() -> None:
    async def scene(swarm: Swarm) -> None:
        swarm.board.seconds = 10.0
        await swarm.serve("0:5")
        await swarm.looked()
        assert swarm.board.words == ["ONLINE 0:5"]
        await swarm.gateway.stop()
        assert swarm.board.words == ["ONLINE 0:5", "OFFLINE 0:5"]

    play(scene)


def test_a_client_hears_nothing_of_a_server_that_is_killed() -> None:
    async def scene(swarm: Swarm) -> None:
        tabs = [await swarm.serve("0:3"), await swarm.serve("0:3"), await swarm.serve("3:5")]
        await swarm.looked()
        steps = inputs(6, batch=2)
        outputs = []
        async with swarm.client().session(16, 2) as session:
            for index, hidden in enumerate(steps):
                if index == 3:
                    used = [node for node in swarm.nodes.values() if node.status.sessions]
                    victim = next(node.status.peer_id for node in used if node.status.peer_id in tabs[:2])
                    swarm.kill(victim)
                outputs.append(await session.step(hidden))
            assert session.failovers == 0
        assert swarm.gateway.status.failovers == 1
        for ours, theirs in zip(outputs, await expected(steps), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

    play(scene)


def test_rollback_and_reordered_rows_survive_a_kill() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.serve("0:5")
        await swarm.serve("0:5")
        await swarm.looked()
        prompt, one, two, three = inputs(3, batch=2)

        async def through(client: Client, lose: Callable[[], None]) -> Floats:
            async with client.session(16, 2) as session:
                await session.step(prompt)
                await session.step(one, [1, 0])
                await session.rollback(3)
                lose()
                await session.step(two, [1, 1])
                return await session.step(three)

        def kill_the_busy_one() -> None:
            swarm.kill(next(node.status.peer_id for node in swarm.nodes.values() if node.status.sessions))

        disturbed = await through(swarm.client(), kill_the_busy_one)
        calm = await through(swarm.client(), lambda: None)
        assert swarm.gateway.status.failovers == 1
        np.testing.assert_allclose(disturbed, calm, rtol=1e-4, atol=1e-5)

    play(scene)


def test_it_never_forwards_to_a_gateway() -> None:
    async def scene(swarm: Swarm) -> None:
        other = ServerInfo(ServerState.ONLINE, 9.0, start_block=0, end_block=5, version="1+gateway")
        for record in swarm.hidden:
            record[swarm.network.host().peer_id] = other
            record[swarm.host.peer_id] = other
        await swarm.looked()
        assert swarm.board.words == []

    play(scene)


def test_more_history_than_there_is_room_for_is_refused_clearly() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.serve("0:5")
        await swarm.looked()
        client = swarm.client()
        async with client.session(64) as session:
            await session.step(inputs(0)[0])
            with pytest.raises(RpcError, match="Cannot allocate KV cache for 80 tokens, max = 70"):
                async with client.session(80) as other:
                    await other.step(inputs(0)[0])
            await session.step(inputs(1)[1])

    play(scene, history_bytes=70 * TINY.hidden_size * 4 * KEPT_INPUTS)


@pytest.mark.parametrize("name", ["history_bytes", "max_sessions", "look_period"])
def test_nonsense_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        GatewayConfig(PREFIX, **{name: 0})  # type: ignore[arg-type]


def test_a_reader_that_fails_changes_nothing() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.serve("0:5")
        await swarm.looked()
        read = swarm.gateway._read_servers

        async def failing(prefix: str, num_blocks: int) -> Sequence[Mapping[PeerId, ServerInfo]]:
            raise KwaaiNetError("no DHT today")

        swarm.gateway._read_servers = failing
        await swarm.looked()
        assert swarm.board.words == ["ONLINE 0:5"]
        swarm.gateway._read_servers = read

    play(scene)

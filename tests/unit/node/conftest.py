"""A server node on a network in memory, with an announcer that keeps everything that was said."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np

from kwaainet.compression.codec import deserialize, serialize
from kwaainet.node.bandwidth import Bandwidth
from kwaainet.node.config import NodeConfig
from kwaainet.node.rpc import answer_pings
from kwaainet.node.server import ServerNode
from kwaainet.ports import Stream
from kwaainet.swarm import blocks
from kwaainet.swarm.announcement import Announcement
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.faults import FaultyEngine
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange, PeerId, Progress, ServerState
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertRequest, ExpertResponse

OFFLINE, JOINING, ONLINE = ServerState
SPAN = BlockRange(1, 3)
UID = blocks.join("tiny", SPAN)
CONFIG = NodeConfig("tiny", SPAN, public_name="me", cache_tokens=200, repository="https://huggingface.co/a/b")
MANIFEST, FILES = random_model()
HIDDEN = np.random.default_rng(5).standard_normal((1, 3, TINY.hidden_size), np.float32)


class Board:
    """An announcer that notes what was announced when, and whether the node could serve then."""

    def __init__(self, host: MemoryHost) -> None:
        self._host = host
        self.said: list[tuple[float, Announcement]] = []
        self.listening: list[bool] = []
        self.failures: list[Exception] = []

    @property
    def states(self) -> list[ServerState]:
        return [announcement.server.state for _, announcement in self.said]

    async def announce(self, announcement: Announcement) -> None:
        await asyncio.sleep(0.1)
        if self.failures:
            raise self.failures.pop(0)
        self.said.append((now(), announcement))
        self.listening.append(self._host.listening)

    def farewell(self) -> bytes:
        return self.said[-1][1].with_state(OFFLINE).encode() if self.said else b""


class Swarm:
    def __init__(self, config: NodeConfig = CONFIG) -> None:
        self.network = MemoryNetwork(1)
        self.client, self.host = self.network.host(), self.network.host()
        self.engine, self.board, self.store = FaultyEngine(), Board(self.host), MemoryStore()
        self.source = MemorySource(FILES)
        self.node = ServerNode(
            config,
            host=self.host,
            engine=self.engine,
            store=self.store,
            source=self.source,
            manifest=MANIFEST,
            announcer=self.board,
            now=now,
            read_servers=self.read_servers,
            chance=lambda: 0.5,
            bandwidth=Bandwidth(self.host, [self.client.peer_id], now),
        )
        self.progress: list[Progress] = []
        self.others: dict[PeerId, ServerInfo] = {}

    async def read_servers(self, prefix: str, num_blocks: int) -> list[dict[PeerId, ServerInfo]]:
        """What the DHT says: the others, and what the node itself said last."""
        servers = {peer: info for peer, info in self.others.items() if prefix == "tiny"}
        said = [announcement for _, announcement in self.board.said if announcement.prefix == prefix]
        if said:
            servers[self.host.peer_id] = said[-1].server
        return [
            {peer: info for peer, info in servers.items() if info.blocks and block in info.blocks}
            for block in range(num_blocks)
        ]

    async def serve_elsewhere(self, span: str) -> PeerId:
        """Another server, which answers pings and nothing else."""
        host, blocks = self.network.host(), BlockRange.parse(span)
        answer_pings(host, now)
        await host.listen()
        self.others[host.peer_id] = ServerInfo(ONLINE, 10.0, blocks.start, blocks.end)
        return host.peer_id

    async def forward(self, uid: str = UID) -> np.ndarray:
        tensors = (serialize(HIDDEN), serialize(np.zeros(0, np.float32)))
        protocol = "TransformerConnectionHandler.rpc_forward"
        request = ExpertRequest(uid, tensors).encode()
        reply = await self.client.call(self.host.peer_id, protocol, request, timeout=30.0)
        return deserialize(ExpertResponse.decode(reply).tensors[0])


def served(test: Callable[[Swarm], Awaitable[None]], config: NodeConfig = CONFIG) -> None:
    """Run ``test`` on a node that has started; it stops afterwards."""

    async def main() -> None:
        swarm = Swarm(config)
        await swarm.node.start(swarm.progress.append)
        await test(swarm)
        await swarm.node.stop()
        assert swarm.node.status.state == OFFLINE
        assert swarm.board.states[-1] == OFFLINE

    run(main())


async def open_session(swarm: Swarm) -> Stream:
    """A session after its first step."""
    stream = await swarm.client.open_stream(
        swarm.host.peer_id, "TransformerConnectionHandler.rpc_inference", timeout=5.0
    )
    await stream.send(ExpertRequest(UID, (serialize(HIDDEN),), msgpack.dumps({"max_length": 9})).encode())
    assert await stream.receive() is not None
    return stream

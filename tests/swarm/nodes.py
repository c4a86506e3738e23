"""Real nodes in memory on a virtual clock, and how to lose them: what the tests of fail-over stand on."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

from kwaainet.node.client import ChainSession, Client, ClientOptions
from kwaainet.node.config import NodeConfig
from kwaainet.node.server import ServerNode
from kwaainet.ports import Floats
from kwaainet.swarm.announcement import Announcement
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.testing.clock import now
from kwaainet.testing.faults import FaultyEngine
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange, PeerId

MANIFEST, FILES = random_model()
NUM_BLOCKS = TINY.num_hidden_layers
PREFIX = "tiny"


class Server:
    """A node, and how to lose it."""

    def __init__(self, swarm: Swarm, blocks: BlockRange) -> None:
        self.swarm, self.blocks = swarm, blocks
        self.host: MemoryHost = swarm.network.host()
        self.engine = FaultyEngine()
        self.node = ServerNode(
            NodeConfig(PREFIX, blocks),
            host=self.host,
            engine=self.engine,
            store=MemoryStore(),
            source=MemorySource(FILES),
            manifest=MANIFEST,
            announcer=self,
            now=now,
        )

    @property
    def peer(self) -> PeerId:
        return self.host.peer_id

    async def announce(self, announcement: Announcement) -> None:
        for block in range(self.blocks.start, self.blocks.end):
            self.swarm.records[block][self.peer] = announcement.server

    def farewell(self) -> bytes:
        return b""

    def kill(self) -> None:
        """No farewell; its records stay."""
        self.swarm.network.vanish(self.peer)


class Swarm:
    def __init__(self, seed: int = 1) -> None:
        self.network = MemoryNetwork(seed, latency=0.002)
        self.records: list[dict[PeerId, ServerInfo]] = [{} for _ in range(NUM_BLOCKS)]
        self.servers: dict[PeerId, Server] = {}
        self.random = random.Random(seed)

    async def serve(self, *spans: str) -> list[Server]:
        servers = [Server(self, BlockRange.parse(span)) for span in spans]
        for server in servers:
            await server.node.start()
            self.servers[server.peer] = server
        return servers

    def client(self, **options: object) -> Client:
        async def read(prefix: str, num_blocks: int) -> Sequence[Mapping[PeerId, ServerInfo]]:
            return [dict(record) for record in self.records]

        return Client(
            self.network.host(),
            read,
            PREFIX,
            NUM_BLOCKS,
            now=now,
            random_bytes=self.random.randbytes,
            options=ClientOptions(**options),  # type: ignore[arg-type]
        )

    def serving(self, session: ChainSession, block: int) -> Server:
        """The server of the session's hop with this block."""
        return next(self.servers[hop.peer] for hop in session.hops if block in hop.blocks)


def inputs(count: int, batch: int = 1, seed: int = 3) -> list[Floats]:
    """``count`` single positions, after one step of four."""
    draw = np.random.default_rng(seed).standard_normal
    shape = (batch, 1, TINY.hidden_size)
    return [draw((batch, 4, TINY.hidden_size), np.float32), *(draw(shape, np.float32) for _ in range(count))]


async def undisturbed(steps: Sequence[Floats]) -> list[Floats]:
    swarm = Swarm()
    await swarm.serve(f"0:{NUM_BLOCKS}")
    async with swarm.client().session(64, len(steps[0])) as session:
        return [await session.step(hidden) for hidden in steps]


def same(ours: Sequence[Floats], theirs: Sequence[Floats]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)

"""A tab that has left is named by no node of the DHT, whatever was on its way when it left."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from kwaainet.dht.record import Dictionary
from kwaainet.errors import KwaaiNetError
from kwaainet.node.announce import AnnounceHandler, RelayAnnouncer
from kwaainet.node.dht import DhtNode
from kwaainet.swarm.announcement import PROTOCOL, Announcement
from kwaainet.swarm.server_info import ModelInfo, ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryNetwork
from kwaainet.types import PeerId, ServerState

NODES = 8  # of the DHT, the relay's among them
BLOCKS = 3
SETTLED = 60.0  # seconds after which nothing may be under way any more
REAL = Announcement("m", ServerInfo(ServerState.ONLINE, 5.0, 0, BLOCKS), 150.0, ModelInfo(BLOCKS))


class Swarm:
    """A relay with its node, others, and a tab that may be lost."""

    def __init__(self, seed: int) -> None:
        self.network = MemoryNetwork(seed, latency=0.05)
        self.chance = random.Random(seed)
        self.nodes: list[DhtNode] = []
        self.relay, self.tab = self.network.host(), self.network.host()

    async def grow(self) -> None:
        hosts = [self.relay, *(self.network.host() for _ in range(NODES - 1))]
        for host in hosts:
            await host.listen()
            node = DhtNode(host, now=now, random_bytes=self.chance.randbytes)
            await node.join([self.relay.peer_id] if self.nodes else [])
            self.nodes.append(node)
        handler = AnnounceHandler(
            self.relay, self.nodes[0], lambda peer: peer in self.relay.connected_peers, now
        )
        self.relay.on_peer_lost(handler.peer_lost)

    async def announce_for_ever(self, announcer: RelayAnnouncer) -> None:
        """As a node does whose free cache changes all the time."""
        while True:
            try:
                await announcer.announce(REAL)
            except (KwaaiNetError, TimeoutError):
                await asyncio.sleep(0.1)
            await asyncio.sleep(self.chance.random())

    async def bid_farewell(self, farewell: bytes) -> None:
        with suppress(KwaaiNetError, TimeoutError):  # then the lost connection speaks for it
            await self.tab.call(self.relay.peer_id, PROTOCOL, farewell, timeout=5.0)

    async def states(self, peer: PeerId) -> set[ServerState]:
        """What each node finds of the tab."""
        found = set()
        for node in self.nodes:
            records = await node.get_many([f"m.{block}" for block in range(BLOCKS)])
            for record in records.values():
                entries = record.entries if isinstance(record, Dictionary) else {}
                found |= {ServerInfo.decode(one.data).state for one in (entries[str(peer)],)}
        return found

    async def close(self) -> None:
        for node in self.nodes:
            await node.close()


@pytest.mark.parametrize("loss", [0.0, 0.2])
def test_nobody_names_a_tab_that_has_left(loss: float) -> None:
    async def main(seed: int) -> set[ServerState]:
        swarm = Swarm(seed)
        await swarm.grow()
        announcer = RelayAnnouncer(swarm.tab, swarm.relay.peer_id)
        await announcer.announce(REAL)
        swarm.network.loss = loss
        announcing = asyncio.ensure_future(swarm.announce_for_ever(announcer))
        await asyncio.sleep(5 * swarm.chance.random())
        bidding = asyncio.ensure_future(swarm.bid_farewell(announcer.farewell()))
        await asyncio.sleep(0.3 * swarm.chance.random())  # its worker may live on for a moment
        swarm.network.vanish(swarm.tab.peer_id)
        announcing.cancel()
        bidding.cancel()
        await asyncio.sleep(SETTLED)
        swarm.network.loss = 0.0
        states = await swarm.states(swarm.tab.peer_id)
        await swarm.close()
        return states

    for seed in range(12):
        assert run(main(seed)) == {ServerState.OFFLINE}, seed

"""A node that others join through: what it keeps, how it comes back, what it counts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from kwaainet.dht.key import DHTID
from kwaainet.dht.protocol import RPC_STORE
from kwaainet.dht.record import StoreItem
from kwaainet.errors import RpcError
from kwaainet.node.dht import UPKEEP_PERIOD, DhtNode
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.types import PeerId
from kwaainet.wire import msgpack


class Swarm:
    def __init__(self) -> None:
        self.network = MemoryNetwork(1)
        self.random = random.Random(1)
        self.nodes: list[DhtNode] = []

    async def host(self) -> MemoryHost:
        host = self.network.host()
        await host.listen()
        return host

    async def node(self, *peers: PeerId) -> tuple[DhtNode, MemoryHost]:
        host = await self.host()
        node = DhtNode(host, now=now, random_bytes=self.random.randbytes)
        self.nodes.append(node)
        await node.join(peers)
        return node, host


def play(scene: Callable[[Swarm], Awaitable[None]]) -> None:
    async def main() -> None:
        swarm = Swarm()
        try:
            await scene(swarm)
        finally:
            for node in swarm.nodes:
                await node.close()

    run(main())


def test_a_seed_keeps_what_it_stores_though_others_are_nearer() -> None:
    async def scene(swarm: Swarm) -> None:
        seed, host = await swarm.node()
        for _ in range(20):
            await swarm.node(host.peer_id)
        seed.keeps_own = True
        keys = [f"m.{n}" for n in range(20)]
        data = msgpack.dumps("data")
        assert all(await seed.store_many([StoreItem(key, "a", data, now() + 60) for key in keys]))
        assert all(seed.storage.get(DHTID.of(key), now()) for key in keys)

    play(scene)


def test_a_node_left_alone_enters_again_and_asks_the_new_ones_from_then_on() -> None:
    async def scene(swarm: Swarm) -> None:
        node, _ = await swarm.node()
        assert not await node.rejoin([swarm.network.host().peer_id])  # nobody answers there
        other, host = await swarm.node()
        assert await node.rejoin([host.peer_id])
        node.table.remove(other.node_id)
        await asyncio.sleep(UPKEEP_PERIOD + 1)
        assert node.table.id_of(host.peer_id) == other.node_id

    play(scene)


def test_refusals_of_malformed_stores_are_counted() -> None:
    async def scene(swarm: Swarm) -> None:
        node, host = await swarm.node()
        caller = await swarm.host()
        with pytest.raises(RpcError):
            await caller.call(host.peer_id, RPC_STORE, b"\xff", timeout=5)
        assert node.guard.refused == {"malformed": 1}

    play(scene)

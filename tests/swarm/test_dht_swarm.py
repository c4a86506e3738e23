"""Many DHT nodes on a bad network and a virtual clock. Each seed is one history, always the same."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from nightly.sizes import size

from kwaainet.dht.record import Dictionary, StoreItem, Value
from kwaainet.errors import RemoteError
from kwaainet.node.dht import DhtNode
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.types import PeerId
from kwaainet.wire import msgpack

HOUR = 3600.0


class Swarm:
    """Nodes that join through the first one."""

    def __init__(self, seed: int) -> None:
        self.network = MemoryNetwork(seed)
        self.random = random.Random(seed)
        self.nodes: list[DhtNode] = []
        self.hosts: list[MemoryHost] = []

    async def grow(self, count: int, *, through: int = 1) -> None:
        for _ in range(count):
            host = self.network.host()
            await host.listen()
            node = DhtNode(host, now=now, random_bytes=self.network.random.randbytes)
            await self._join(node, [known.peer_id for known in self.hosts[:through]])
            self.nodes.append(node)
            self.hosts.append(host)

    async def _join(self, node: DhtNode, peers: list[PeerId]) -> None:
        for _ in range(10):
            try:
                return await node.join(peers)
            except (RemoteError, TimeoutError):
                continue
        raise AssertionError("ten attempts to join failed")

    async def kill(self, index: int) -> None:
        self.network.vanish(self.hosts.pop(index).peer_id)
        await self.nodes.pop(index).close()

    async def close(self) -> None:
        for node in self.nodes:
            await node.close()

    def anyone(self) -> DhtNode:
        return self.random.choice(self.nodes)


def play(seed: int, scene: Callable[[Swarm], Awaitable[None]]) -> None:
    async def main() -> None:
        swarm = Swarm(seed)
        await scene(swarm)
        await swarm.close()

    run(main())


def items(count: int, expiration: float) -> list[StoreItem]:
    return [StoreItem(f"model.{n}", None, msgpack.dumps(n), expiration) for n in range(count)]


async def found(node: DhtNode, count: int) -> int:
    records = await node.get_many([f"model.{n}" for n in range(count)])
    return sum(
        isinstance(record, Value) and msgpack.loads(record.data) == number
        for number, record in enumerate(records.values())
    )


@pytest.mark.parametrize("seed", range(size(1, 3)))
def test_everything_is_found_under_loss(seed: int) -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.grow(60)
        swarm.network.loss = 0.1  # each way: one call in five fails
        stored = await swarm.anyone().store_many(items(30, now() + HOUR))
        assert stored == [True] * 30
        for _ in range(5):
            assert await found(swarm.anyone(), 30) == 30

    play(seed, scene)


@pytest.mark.parametrize("seed", range(size(1, 2)))
def test_records_outlive_the_nodes_that_came_and_went(seed: int) -> None:
    """A quarter of the nodes is replaced within half an hour; announcements are renewed, as servers do."""

    async def scene(swarm: Swarm) -> None:
        await swarm.grow(50)
        for _ in range(12):
            await swarm.anyone().store_many(items(20, now() + 240))
            await swarm.kill(swarm.random.randrange(1, len(swarm.nodes)))
            await swarm.grow(1)
            await asyncio.sleep(120)
            assert await found(swarm.anyone(), 20) == 20

    play(seed, scene)


def test_replicas_survive_four_of_five_without_renewal() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.grow(50)
        await swarm.anyone().store("the.key", None, msgpack.dumps("kept"), now() + HOUR)
        holders = [node for node in swarm.nodes if len(node.storage)]
        assert len(holders) == 5
        for holder in holders[:4]:
            await swarm.kill(swarm.nodes.index(holder))
        record = await swarm.anyone().get("the.key")
        assert isinstance(record, Value)
        assert msgpack.loads(record.data) == "kept"

    play(3, scene)


def test_records_move_to_nodes_that_come_later() -> None:
    """Nobody renews anything, and all nodes of the beginning leave."""

    async def scene(swarm: Swarm) -> None:
        await swarm.grow(10)
        await swarm.anyone().store_many(items(20, now() + HOUR))
        await swarm.grow(40, through=10)
        for _ in range(10):
            await swarm.kill(0)
            await asyncio.sleep(30)
        assert await found(swarm.anyone(), 20) == 20

    play(8, scene)


def knows(one: DhtNode, other: DhtNode) -> bool:
    return other.node_id in one.table


def test_a_partition_heals() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.grow(50)
        north, south = swarm.nodes[:25], swarm.nodes[25:]
        swarm.network.partition(
            [host.peer_id for host in swarm.hosts[:25]], [host.peer_id for host in swarm.hosts[25:]]
        )
        for side, name in ((north, "north"), (south, "south")):
            assert await side[5].store("both", name, msgpack.dumps(name), now() + 3 * HOUR)
            assert await side[9].store(name, None, msgpack.dumps(name), now() + 3 * HOUR)
        assert await north[3].get("south") is None
        for turn in range(12):  # each side meets the other's silence, and forgets it
            for node in (*north, *south):
                await node.get(f"some key {turn}")
            await asyncio.sleep(60)
            if not any(knows(a, b) or knows(b, a) for a in north for b in south):
                break
        else:
            raise AssertionError("the sides still know each other")
        swarm.network.heal()
        await asyncio.sleep(300)  # the south finds its initial peer again
        for reader in (north[7], south[7]):
            assert isinstance(await reader.get("north"), Value)
            assert isinstance(await reader.get("south"), Value)
            both = await reader.get("both")
            assert isinstance(both, Dictionary)
            assert set(both.entries) == {"north", "south"}

    play(4, scene)


def test_many_servers_announce_themselves_under_one_key() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.grow(40)
        swarm.network.loss = 0.05
        stores = [
            node.store("block.0", f"server {n}", msgpack.dumps(n), now() + HOUR)
            for n, node in enumerate(swarm.nodes)
        ]
        assert all(await asyncio.gather(*stores))
        record = await swarm.anyone().get("block.0")
        assert isinstance(record, Dictionary)
        assert set(record.entries) == {f"server {n}" for n in range(40)}

    play(5, scene)


def test_expired_records_are_gone_everywhere() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.grow(30)
        await swarm.anyone().store_many(items(10, now() + 100))
        await asyncio.sleep(101)
        assert await found(swarm.anyone(), 10) == 0
        await asyncio.sleep(120)
        assert [len(node.storage) for node in swarm.nodes] == [0] * 30
        assert [node.storage.size for node in swarm.nodes] == [0] * 30

    play(6, scene)


def test_a_lookup_asks_few_nodes_of_a_big_swarm() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.grow(100)
        node, calls = swarm.anyone(), 0
        call = node._host.call

        async def counting(*arguments: object, **options: object) -> bytes:
            nonlocal calls
            calls += 1
            return await call(*arguments, **options)  # type: ignore[arg-type]

        node._host.call = counting  # type: ignore[method-assign]
        assert await node.get("absent") is None
        assert 20 <= calls <= 30

    play(7, scene)


def test_the_same_seed_is_the_same_history() -> None:
    def history(seed: int) -> list[tuple[int, int, float]]:
        outcome: list[tuple[int, int, float]] = []

        async def scene(swarm: Swarm) -> None:
            swarm.network.loss = 0.1
            await swarm.grow(25)
            await swarm.anyone().store_many(items(10, now() + HOUR))
            outcome.extend((len(node.table), node.storage.size, now()) for node in swarm.nodes)

        play(seed, scene)
        return outcome

    assert history(1) == history(1)
    assert history(1) != history(2)

"""Which peers count as announced: by our own storage, by the swarm, and by nobody."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from kwaainet.dht.key import DHTID
from kwaainet.dht.record import StoreItem, Value
from kwaainet.node import announced as module
from kwaainet.node.announced import READ_AGAIN, AnnouncedServers
from kwaainet.node.dht import DhtNode
from kwaainet.swarm.announcement import Announcement
from kwaainet.swarm.server_info import MODELS_KEY, ModelInfo, ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.types import PeerId, ServerState

OFFLINE, JOINING, ONLINE = ServerState
REAL = Announcement("m", ServerInfo(ONLINE, 5.0, start_block=0, end_block=2), 150.0, ModelInfo(5))


class Swarm:
    """Our node, and another that keeps all records: ours asks it whenever it looks anything up."""

    async def __aenter__(self) -> Swarm:
        self.random = random.Random(1)
        self.network = MemoryNetwork(1)
        _, self.other = await self.node()
        self.host, self.ours = await self.node(client=True)
        await self.ours.join([self.other_host.peer_id])
        self.servers = AnnouncedServers(self.ours, now)
        self.peer = self.network.host().peer_id
        return self

    async def node(self, *, client: bool = False) -> tuple[MemoryHost, DhtNode]:
        host = self.network.host()
        await host.listen()
        if not client:
            self.other_host = host
        return host, DhtNode(host, now=now, random_bytes=self.random.randbytes, client_mode=client)

    async def __aexit__(self, *problem: object) -> None:
        await self.ours.close()
        await self.other.close()

    async def announce(self, announcement: Announcement, peer: PeerId | None = None) -> None:
        await self.ours.store_many(announcement.records(peer or self.peer, now() + announcement.ttl))


def play(scene: Callable[[Swarm], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Swarm() as swarm:
            await scene(swarm)

    run(main())


def keep(node: DhtNode, announcement: Announcement, peer: PeerId, expiration: float) -> None:
    for record in announcement.records(peer, expiration):
        assert record.subkey is not None
        value = Value(record.value, record.expiration)
        assert node.storage.store_subkey(DHTID.of(record.key), record.subkey, value, now())


def test_a_server_of_the_swarm_is_found() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.announce(REAL)
        assert await swarm.servers.find(swarm.peer) == REAL.server
        assert await swarm.servers.find(swarm.host.peer_id) is None

    play(scene)


def test_our_own_storage_is_asked_first() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.other_host.close()
        keep(swarm.ours, REAL, swarm.peer, now() + 10)
        assert await swarm.servers.find(swarm.peer) == REAL.server
        await asyncio.sleep(11)
        assert await swarm.servers.find(swarm.peer) is None

    play(scene)


@pytest.mark.parametrize("state", [OFFLINE, JOINING])
def test_who_is_not_online_is_not_found(state: ServerState) -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.announce(REAL)
        await swarm.announce(Announcement("m", REAL.server.with_state(state), 160.0, ModelInfo(5)))
        assert await swarm.servers.find(swarm.peer) is None

    play(scene)


def test_the_swarm_is_not_read_again_for_every_question() -> None:
    async def scene(swarm: Swarm) -> None:
        assert await swarm.servers.find(swarm.peer) is None
        await swarm.announce(REAL)
        assert await swarm.servers.find(swarm.peer) is None
        await asyncio.sleep(READ_AGAIN)
        found = await asyncio.gather(*(swarm.servers.find(swarm.peer) for _ in range(5)))
        assert found == [REAL.server] * 5

    play(scene)


def test_a_clock_that_is_set_back_does_not_stop_the_reading() -> None:
    async def scene(swarm: Swarm) -> None:
        ahead = 3600.0
        servers = AnnouncedServers(swarm.ours, lambda: now() + ahead)
        assert await servers.find(swarm.peer) is None
        ahead = 0.0
        await swarm.announce(REAL)
        assert await servers.find(swarm.peer) == REAL.server

    play(scene)


def test_records_that_make_no_sense_are_passed_over_and_the_rest_is_capped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_KEYS", 3)

    async def scene(swarm: Swarm) -> None:
        until = now() + 100
        junk = [
            StoreItem(MODELS_KEY, "has.dot", ModelInfo(4).encode(), until),
            StoreItem(MODELS_KEY, "no-model", b"\xc0", until),
            StoreItem("m.0", "nobody", b"\xc0", until),
        ]
        await swarm.ours.store_many(junk)
        await swarm.announce(REAL)
        late = Announcement("m", ServerInfo(ONLINE, 1.0, start_block=3, end_block=5), 150.0, ModelInfo(5))
        stranger = swarm.network.host().peer_id
        await swarm.announce(late, stranger)
        assert await swarm.servers.find(swarm.peer) == REAL.server
        assert await swarm.servers.find(stranger) is None, "its blocks lie behind the cap"

    play(scene)

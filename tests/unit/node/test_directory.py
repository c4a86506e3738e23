"""Tabs read the swarm through their relay, which looks up what they may ask and no more."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from kwaainet.errors import ProtocolError, RpcError, Unreachable
from kwaainet.node import directory
from kwaainet.node.announce import AnnounceHandler, RelayAnnouncer
from kwaainet.node.dht import DhtNode
from kwaainet.node.directory import DirectoryHandler, dht_reader, directory_reader
from kwaainet.swarm.announcement import Announcement
from kwaainet.swarm.directory import PROTOCOL
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryNetwork
from kwaainet.types import PeerId, ServerState

INFO = ServerInfo(ServerState.ONLINE, 1.0, start_block=0, end_block=1)


class Swarm:
    """A relay with a DHT node, and a tab."""

    def __init__(self) -> None:
        self.network = MemoryNetwork(latency=0.001)
        self.relay, self.tab = self.network.host(), self.network.host()
        self.dht = DhtNode(self.relay, now=now, random_bytes=random.Random(1).randbytes)
        self.lookups = 0
        self.handler = DirectoryHandler(self.relay, self, now)
        self.read = directory_reader(self.tab, self.relay.peer_id)

    async def get_many(self, keys: list[str], latest: bool = True) -> dict:
        self.lookups += 1
        await asyncio.sleep(0.5)
        return await self.dht.get_many(keys, latest)

    async def announce(self, block: int) -> PeerId:
        peer = self.network.host().peer_id
        assert await self.dht.store(f"m.{block}", str(peer), INFO.encode(), now() + 150)
        return peer


def served(test: Callable[[Swarm], Awaitable[None]]) -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.relay.listen()
        await swarm.dht.join([])
        await test(swarm)
        await swarm.dht.close()

    run(main())


def test_a_tab_reads_what_a_node_of_the_dht_reads() -> None:
    async def test(swarm: Swarm) -> None:
        peer = await swarm.announce(0)
        assert await swarm.dht.store("m.0", "nobody", b"\xc0", now() + 60)
        assert await swarm.dht.store("m.1", None, b"\xc0", now() + 60)
        assert await dht_reader(swarm.dht)("m", 3) == [{peer: INFO}, {}, {}]
        assert await swarm.read("m", 3) == [{peer: INFO}, {}, {}]

    served(test)


def test_what_many_ask_at_once_is_looked_up_once() -> None:
    async def test(swarm: Swarm) -> None:
        peer = await swarm.announce(0)
        others = [directory_reader(swarm.network.host(), swarm.relay.peer_id) for _ in range(5)]
        read = await asyncio.gather(*(reader("m", 1) for reader in others))
        assert read == [[{peer: INFO}]] * 5
        assert swarm.lookups == 1

    served(test)


def test_a_caller_who_leaves_takes_the_answer_from_nobody() -> None:
    async def test(swarm: Swarm) -> None:
        first = asyncio.ensure_future(swarm.read("m", 1))
        await asyncio.sleep(0.1)
        second = asyncio.ensure_future(directory_reader(swarm.network.host(), swarm.relay.peer_id)("m", 1))
        await asyncio.sleep(0.1)
        first.cancel()
        assert await second == [{}]

    served(test)


def test_what_is_announced_is_read_a_second_later() -> None:
    async def test(swarm: Swarm) -> None:
        assert await swarm.read("m", 1) == [{}]
        peer = await swarm.announce(0)
        await asyncio.sleep(directory.FRESH)
        assert await swarm.read("m", 1) == [{peer: INFO}]

    served(test)


def test_what_is_announced_here_is_read_at_once_by_who_asks_from_then_on() -> None:
    async def test(swarm: Swarm) -> None:
        announcements = AnnounceHandler(
            swarm.relay, swarm.dht, lambda peer: True, now, changed=swarm.handler.changed
        )
        before = asyncio.ensure_future(swarm.read("m", 1))
        await asyncio.sleep(0.1)
        server = swarm.network.host()
        await RelayAnnouncer(server, swarm.relay.peer_id).announce(Announcement("m", INFO, 150.0))
        assert await swarm.read("m", 1) == [{server.peer_id: INFO}]
        await before
        assert await swarm.read("m", 1) == [{server.peer_id: INFO}]
        assert swarm.lookups == 2, "what has not changed is still given to others"
        await announcements.withdraw_all()
        assert await swarm.read("m", 1) == [{}]

    served(test)


def test_a_peer_that_reads_too_often_is_refused_and_no_other() -> None:
    async def test(swarm: Swarm) -> None:
        for _ in range(directory.MAX_PER_MINUTE):
            await swarm.read("m", 1)
            await asyncio.sleep(0.1)
        with pytest.raises(RpcError, match="slow down"):
            await swarm.read("m", 1)
        await directory_reader(swarm.network.host(), swarm.relay.peer_id)("m", 1)
        await asyncio.sleep(61)
        await swarm.read("m", 1)

    served(test)


def test_lookups_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "MAX_LOOKUPS", 2)

    async def test(swarm: Swarm) -> None:
        reads = [asyncio.ensure_future(swarm.read("m", count)) for count in (1, 2)]
        await asyncio.sleep(0.1)
        with pytest.raises(RpcError, match="try again"):
            await swarm.read("m", 3)
        await asyncio.gather(*reads)
        await asyncio.sleep(directory.FRESH)
        await swarm.read("m", 3)

    served(test)


def test_a_relay_counts_the_reads_of_no_more_peers_than_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "MAX_PEERS", 1)

    async def test(swarm: Swarm) -> None:
        other = directory_reader(swarm.network.host(), swarm.relay.peer_id)
        await swarm.read("m", 1)
        with pytest.raises(RpcError, match="ask another"):
            await other("m", 1)
        await asyncio.sleep(61)
        await other("m", 1)

    served(test)


@pytest.mark.parametrize("request_", [b"", b"\xc1", b"x" * 2000])
def test_a_bad_request_is_told_why(request_: bytes) -> None:
    async def test(swarm: Swarm) -> None:
        with pytest.raises(RpcError, match=r"ProtocolError|LimitExceeded"):
            await swarm.tab.call(swarm.relay.peer_id, PROTOCOL, request_, timeout=5.0)
        assert swarm.lookups == 0

    served(test)


def test_a_relay_that_lies_in_form_or_is_gone_is_said_so() -> None:
    async def test(swarm: Swarm) -> None:
        async def nonsense(peer: PeerId, request: bytes) -> bytes:
            return b"\xc0"

        swarm.relay.handle_unary(PROTOCOL, nonsense)
        with pytest.raises(ProtocolError, match="directory"):
            await swarm.read("m", 1)
        swarm.network.vanish(swarm.relay.peer_id)
        with pytest.raises(Unreachable):
            await swarm.read("m", 1)

    served(test)

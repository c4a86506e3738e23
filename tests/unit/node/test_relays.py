"""Relays among themselves: finding, sharing, and trying a lost tab elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from kwaainet.dht.record import StoreItem
from kwaainet.errors import ProtocolError, RequestError, Unreachable
from kwaainet.node import relays
from kwaainet.node.dht import DhtNode
from kwaainet.node.relays import PERIOD, PROTOCOL, STALE, Relays
from kwaainet.swarm.shapes import RELAYS_KEY
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.types import PeerId
from kwaainet.wire import msgpack

TAB, OTHER = PeerId(b"\x00\x03tab"), PeerId(b"\x00\x05other")


class One:
    """A relay that holds ``held``; ``answers`` says whether a tab answers through another."""

    def __init__(self, host: MemoryHost, dht: DhtNode) -> None:
        self.host, self.dht = host, dht
        self.held: list[PeerId] = []
        self.answers = True
        self.tried: list[Sequence[str]] = []
        self.relays = Relays(host, dht, lambda: self.held, self._reach, now)

    async def _reach(self, peer: PeerId, addresses: Sequence[str]) -> bool:
        self.tried.append(addresses)
        if not self.answers:
            await asyncio.sleep(60)
        return True


def play(scene: Callable[[MemoryNetwork, One, One], Awaitable[None]]) -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        ones: list[One] = []
        for _ in range(2):
            host = network.host()
            await host.listen()
            dht = DhtNode(host, now=now, random_bytes=network.random.randbytes)
            await dht.join([ones[0].host.peer_id] if ones else [])
            ones.append(One(host, dht))
        running = [asyncio.ensure_future(one.relays.run()) for one in ones]
        await asyncio.sleep(PERIOD + 10)
        await scene(network, *ones)
        for task in running:
            task.cancel()
        for one in ones:
            await one.dht.close()

    run(main())


def test_relays_find_each_other_and_say_whom_they_hold() -> None:
    async def scene(network: MemoryNetwork, one: One, other: One) -> None:
        assert one.relays.addresses == list(other.host.addresses)
        assert other.relays.circuits(TAB) == []
        one.held.append(TAB)
        await asyncio.sleep(5)
        assert other.relays.circuits(TAB) == [f"{address}/p2p-circuit" for address in one.host.addresses]
        await asyncio.sleep(3 * STALE)
        assert other.relays.circuits(TAB), "it is said again before it is stale"
        one.held.clear()
        await asyncio.sleep(5)
        assert other.relays.circuits(TAB) == []

    play(scene)


def test_the_word_of_a_relay_that_died_does_not_last() -> None:
    async def scene(network: MemoryNetwork, one: One, other: One) -> None:
        one.held.append(TAB)
        await asyncio.sleep(5)
        network.vanish(one.host.peer_id)
        assert other.relays.circuits(TAB)
        await asyncio.sleep(STALE)
        assert other.relays.circuits(TAB) == []

    play(scene)


def test_a_lost_tab_is_tried_elsewhere_and_not_for_long() -> None:
    async def scene(network: MemoryNetwork, one: One, other: One) -> None:
        assert not await other.relays.reaches(TAB)
        assert not other.tried
        one.held.append(TAB)
        await asyncio.sleep(5)
        assert await other.relays.reaches(TAB)
        other.answers, began = False, now()
        assert not await other.relays.reaches(TAB)
        assert now() - began == pytest.approx(relays.ELSEWHERE_TIMEOUT, abs=0.01)

    play(scene)


def test_only_relays_are_listened_to_and_within_bounds() -> None:
    async def scene(network: MemoryNetwork, one: One, other: One) -> None:
        with pytest.raises(RequestError, match="does not stand under"):
            await one.relays.rpc_share(OTHER, msgpack.dumps([TAB.data]))
        relay = other.host.peer_id
        with pytest.raises(ProtocolError):
            await one.relays.rpc_share(relay, msgpack.dumps(["text"]))
        with pytest.raises(ProtocolError, match="4097"):
            await one.relays.rpc_share(relay, msgpack.dumps([TAB.data] * 4096 + [TAB.data]))

    play(scene)


def test_what_stands_under_the_key_is_checked() -> None:
    async def scene(network: MemoryNetwork, one: One, other: One) -> None:
        words: list[object] = [{}, {"addresses": []}, {"addresses": ["/ip4/1.1.1.1/tcp/1/p2p/QmX"]}, [1]]
        items = [
            StoreItem(RELAYS_KEY, str(PeerId(b"\x00\x02" + bytes([n, n]))), msgpack.dumps(word), now() + 500)
            for n, word in enumerate(words)
        ]
        await other.dht.store_many(items)
        await one.relays.look()
        assert one.relays.addresses == list(other.host.addresses)

    play(scene)


def test_a_swarm_that_does_not_answer_is_asked_again() -> None:
    async def main() -> None:
        network = MemoryNetwork(1)
        host = network.host()
        asked: list[float] = []

        class Deaf:
            async def store_many(self, items: Sequence[StoreItem]) -> list[bool]:
                asked.append(now())
                raise Unreachable("nobody is there")

            async def get_many(self, keys: object, latest: bool = True) -> dict[str, None]:
                return {RELAYS_KEY: None}

        one = Relays(host, Deaf(), list, lambda peer, addresses: asyncio.sleep(0, True), now)
        task = asyncio.ensure_future(one.run())
        await asyncio.sleep(2.5 * PERIOD)
        task.cancel()
        assert len(asked) == 3
        with pytest.raises(Unreachable):
            await host.call(TAB, PROTOCOL, b"", timeout=1)

    run(main())

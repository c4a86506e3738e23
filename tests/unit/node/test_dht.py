"""The DHT node over hosts in memory: joining, storing, finding, and peers that misbehave."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from kwaainet.dht.key import DHTID
from kwaainet.dht.protocol import RPC_FIND, RPC_PING, RPC_STORE, Find, Found, Ping, Pong, Result, Stored
from kwaainet.dht.record import Dictionary, StoreItem, Value
from kwaainet.errors import ClockSkew, HandshakeError, RpcError, Unreachable
from kwaainet.node.dht import CALL_TIMEOUT, UPKEEP_PERIOD, DhtNode
from kwaainet.ports import UnaryHandler
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

    async def node(
        self, *peers: PeerId, skew: float = 0.0, client: bool = False
    ) -> tuple[DhtNode, MemoryHost]:
        """Built, and joined through these peers."""
        host = await self.host()
        node = DhtNode(host, now=lambda: now() + skew, random_bytes=self.random.randbytes, client_mode=client)
        self.nodes.append(node)
        await node.join(peers)
        return node, host

    async def fake(self, **answers: bytes | UnaryHandler) -> MemoryHost:
        """A host that answers ``ping``, ``store`` and ``find`` as told."""
        host = await self.host()
        for name, answer in answers.items():
            if isinstance(answer, bytes):
                host.handle_unary(f"DHTProtocol.rpc_{name}", _always(answer))
            else:
                host.handle_unary(f"DHTProtocol.rpc_{name}", answer)
        return host


def _always(answer: bytes) -> UnaryHandler:
    async def handler(peer: PeerId, request: bytes) -> bytes:
        return answer

    return handler


def play(scene: Callable[[Swarm], Awaitable[None]]) -> None:
    async def main() -> None:
        swarm = Swarm()
        try:
            await scene(swarm)
        finally:
            for node in swarm.nodes:
                await node.close()

    run(main())


DATA = msgpack.dumps("data")
FAKE = DHTID(12345)


def pong(**changed: object) -> UnaryHandler:
    async def handler(peer: PeerId, request: bytes) -> bytes:
        fields = {"node_id": FAKE, "dht_time": now(), "available": True, **changed}
        return Pong(**fields).encode()  # type: ignore[arg-type]

    return handler


def test_a_new_swarm_of_one_keeps_its_own_records() -> None:
    async def scene(swarm: Swarm) -> None:
        node, _ = await swarm.node()
        assert await node.store("key", None, DATA, now() + 60)
        assert await node.get("key") == Value(DATA, now() + 60)
        assert await node.get("absent") is None

    play(scene)


def test_two_nodes_know_each_other_and_share() -> None:
    async def scene(swarm: Swarm) -> None:
        one, one_host = await swarm.node()
        other, other_host = await swarm.node(one_host.peer_id)
        assert one.table.id_of(other_host.peer_id) == other.node_id
        assert other.table.id_of(one_host.peer_id) == one.node_id
        assert await other.store("key", "sub", DATA, now() + 60)
        assert isinstance(await one.get("key"), Dictionary)
        assert len(one.storage) == len(other.storage) == 1

    play(scene)


def test_many_items_in_one_go() -> None:
    async def scene(swarm: Swarm) -> None:
        one, host = await swarm.node()
        other, _ = await swarm.node(host.peer_id)
        late, early = now() + 60, now() - 60
        items = [
            StoreItem("m.0", "a", DATA, late),
            StoreItem("m.0", "b", DATA, late),
            StoreItem("m.1", "a", DATA, late),
            StoreItem("m.1", "b", DATA, early),
        ]
        assert await other.store_many(items) == [True, True, True, False]
        assert await other.store_many([]) == []
        found = await one.get_many(["m.0", "m.1", "m.2"])
        assert found == {
            "m.0": Dictionary({"a": Value(DATA, late), "b": Value(DATA, late)}),
            "m.1": Dictionary({"a": Value(DATA, late)}),
            "m.2": None,
        }

    play(scene)


def test_a_client_stores_and_reads_but_stands_in_no_table() -> None:
    async def scene(swarm: Swarm) -> None:
        one, host = await swarm.node()
        client, client_host = await swarm.node(host.peer_id, client=True)
        until = now() + 60
        assert await client.store("key", None, DATA, until)
        assert await client.get("key") == Value(DATA, until)
        assert len(one.table) == 0
        assert len(client.storage) == 0
        with pytest.raises(HandshakeError):
            await host.call(client_host.peer_id, RPC_PING, Ping(None, False).encode(), timeout=1)

    play(scene)


def test_a_client_without_peers_stores_nowhere() -> None:
    async def scene(swarm: Swarm) -> None:
        client, _ = await swarm.node(client=True)
        assert not await client.store("key", None, DATA, now() + 60)
        assert await client.get("key") is None

    play(scene)


@pytest.mark.parametrize("skew", [-10.0, 3.5])
@pytest.mark.parametrize("client", [False, True])
def test_a_clock_that_is_off_is_refused(skew: float, client: bool) -> None:
    async def scene(swarm: Swarm) -> None:
        _, host = await swarm.node()
        with pytest.raises(ClockSkew, match="set the clock"):
            await swarm.node(host.peer_id, skew=skew, client=client)

    play(scene)


def test_joining_needs_one_good_peer() -> None:
    async def scene(swarm: Swarm) -> None:
        _, good = await swarm.node()
        silent = await swarm.fake(ping=_never)
        late = await swarm.fake(ping=pong(dht_time=1.0))
        node, _ = await swarm.node(silent.peer_id, late.peer_id, good.peer_id)
        assert [n.peer_id for n in node.table] == [good.peer_id]

    play(scene)


async def _never(peer: PeerId, request: bytes) -> bytes:
    await asyncio.sleep(1000)
    return b""


async def _crash(peer: PeerId, request: bytes) -> bytes:
    raise RpcError("out of order")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (_never, "no answer within 3 s"),
        (_crash, "out of order"),
        (b"\xff rubbish", ""),
        (pong(node_id=None), "a client of the DHT"),
        (pong(available=False), "cannot call us back"),
    ],
)
def test_why_joining_failed_is_told(answer: bytes | UnaryHandler, words: str) -> None:
    async def scene(swarm: Swarm) -> None:
        bad = await swarm.fake(ping=answer)
        with pytest.raises(Unreachable, match=f"none of the 1 initial peers will do.*{words}"):
            await swarm.node(bad.peer_id)

    play(scene)


def test_a_node_that_cannot_be_called_back_is_told_and_not_kept() -> None:
    async def scene(swarm: Swarm) -> None:
        one, host = await swarm.node()
        stranger = await swarm.host()  # does not answer rpc_ping
        request = Ping(FAKE, validate=True).encode()
        reply = Pong.decode(await host_call(stranger, host, RPC_PING, request))
        assert (reply.available, reply.node_id) == (False, one.node_id)
        assert len(one.table) == 0
        reply = Pong.decode(await host_call(stranger, host, RPC_PING, Ping(None, True).encode()))
        assert not reply.available
        stranger.handle_unary(RPC_PING, pong())
        assert Pong.decode(await host_call(stranger, host, RPC_PING, request)).available
        assert one.table.id_of(stranger.peer_id) == FAKE

    play(scene)


async def host_call(caller: MemoryHost, callee: MemoryHost, rpc: str, request: bytes) -> bytes:
    return await caller.call(callee.peer_id, rpc, request, timeout=2 * CALL_TIMEOUT)


@pytest.mark.parametrize("rpc", [RPC_PING, RPC_STORE, RPC_FIND])
def test_rubbish_gets_an_error_and_nothing_else_happens(rpc: str) -> None:
    async def scene(swarm: Swarm) -> None:
        one, host = await swarm.node()
        stranger = await swarm.host()
        with pytest.raises(RpcError, match="Error"):
            await host_call(stranger, host, rpc, b"\x0a\xff\xff\xff\xff\x0f")
        assert len(one.table) == len(one.storage) == 0

    play(scene)


def test_requests_put_their_sender_into_the_table() -> None:
    async def scene(swarm: Swarm) -> None:
        one, host = await swarm.node()
        stranger = await swarm.fake(ping=pong())
        await host_call(stranger, host, RPC_FIND, Find(None, (FAKE,)).encode())
        assert len(one.table) == 0
        await host_call(stranger, host, RPC_FIND, Find(FAKE, (FAKE,)).encode())
        assert one.table.id_of(stranger.peer_id) == FAKE

    play(scene)


def test_a_node_that_changed_its_id_is_not_believed() -> None:
    async def scene(swarm: Swarm) -> None:
        one, _ = await swarm.node()
        lies = Found(DHTID(999), (Result(Value(DATA, now() + 60), ()),)).encode()
        liar = await swarm.fake(ping=pong(), find=lies)
        one.table.add(FAKE, liar.peer_id, now())
        assert await one.get("key") is None
        assert len(one.table) == 0

    play(scene)


@pytest.mark.parametrize(
    ("find", "store"),
    [
        (_crash, _crash),
        (b"\xff\xff", b"\xff\xff"),
        (Found(FAKE, ()).encode(), Stored(FAKE, ()).encode()),
        (_never, _never),
    ],
)
def test_bad_answers_cost_nothing_but_time(find: bytes | UnaryHandler, store: bytes | UnaryHandler) -> None:
    async def scene(swarm: Swarm) -> None:
        one, host = await swarm.node()
        other, _ = await swarm.node(host.peer_id)
        bad = await swarm.fake(ping=pong(), find=find, store=store)
        one.table.add(FAKE, bad.peer_id, now())
        start = now()
        assert await one.store("key", None, DATA, now() + 60)
        assert isinstance(await one.get("key"), Value)
        assert isinstance(await other.get("key"), Value)
        assert now() - start < 4 * CALL_TIMEOUT

    play(scene)


def test_silent_nodes_are_left_alone_and_then_forgotten() -> None:
    async def scene(swarm: Swarm) -> None:
        calls = 0

        async def count(peer: PeerId, request: bytes) -> bytes:
            nonlocal calls
            calls += 1
            return await _never(peer, request)

        one, _ = await swarm.node()
        silent = await swarm.fake(find=count)
        one.table.add(FAKE, silent.peer_id, now())
        for _ in range(10):
            await one.get("key")
        assert calls == 1
        await asyncio.sleep(6)
        await one.get("key")
        assert calls == 2
        assert len(one.table) == 0

    play(scene)


def test_the_latest_is_united_from_all_and_any_is_enough_if_asked_for() -> None:
    async def scene(swarm: Swarm) -> None:
        nodes = [await swarm.node()]
        for _ in range(4):
            nodes.append(await swarm.node(nodes[0][1].peer_id))
        key, until = DHTID.of("key"), now() + 60
        for n, (node, _) in enumerate(nodes):
            node.storage.store_subkey(key, str(n), Value(DATA, until), now())
        reader = nodes[2][0]
        united = await reader.get("key")
        assert isinstance(united, Dictionary)
        assert sorted(united.entries) == list("01234")
        assert await reader.get("key", latest=False) == Dictionary({"2": Value(DATA, until)})

    play(scene)


def test_expired_answers_are_not_believed() -> None:
    async def scene(swarm: Swarm) -> None:
        one, _ = await swarm.node()
        stale = Found(FAKE, (Result(Value(DATA, now() - 1), ()),)).encode()
        fake = await swarm.fake(ping=pong(), find=stale)
        one.table.add(FAKE, fake.peer_id, now())
        assert await one.get("key") is None
        slow_id = DHTID(99)

        async def answer_late(peer: PeerId, request: bytes) -> bytes:
            await asyncio.sleep(1)
            return Found(slow_id, (Result(Value(DATA, now() + 60), ()),)).encode()

        slow = await swarm.fake(find=answer_late)
        one.table.add(slow_id, slow.peer_id, now())
        assert isinstance(await one.get("key", latest=False), Value), "a stale answer ended the search"

    play(scene)


def test_a_vanished_node_is_forgotten_at_once() -> None:
    async def scene(swarm: Swarm) -> None:
        one, host = await swarm.node()
        _, other_host = await swarm.node(host.peer_id)
        swarm.network.vanish(other_host.peer_id)
        await one.get("key")
        assert len(one.table) == 0

    play(scene)


def test_a_full_bucket_checks_its_oldest() -> None:
    async def scene(swarm: Swarm) -> None:
        one, host = await swarm.node()
        far = DHTID(one.node_id ^ 1 << 159)
        gone = await swarm.host()
        one.table.add(far, gone.peer_id, now())
        for n in range(1, 60):
            caller = await swarm.fake(ping=pong(node_id=DHTID(far ^ n)))
            await host_call(caller, host, RPC_FIND, Find(DHTID(far ^ n), ()).encode())
        await asyncio.sleep(1)
        assert far not in one.table
        assert len(one.table) >= 20

    play(scene)


def test_upkeep_lets_go_of_expired_records_and_finds_lost_peers_again() -> None:
    async def scene(swarm: Swarm) -> None:
        one, host = await swarm.node()
        other, other_host = await swarm.node(host.peer_id)
        await one.store("key", None, DATA, now() + 10)
        other.table.remove(one.node_id)
        one.table.remove(other.node_id)
        await asyncio.sleep(UPKEEP_PERIOD + 1)
        assert len(one.storage) == len(other.storage) == 0
        assert one.node_id in other.table
        assert one.table.id_of(other_host.peer_id) == other.node_id

    play(scene)


def test_closing_ends_the_background() -> None:
    async def scene(swarm: Swarm) -> None:
        node, _ = await swarm.node()
        before = len(asyncio.all_tasks())
        await node.close()
        await node.close()
        assert len(asyncio.all_tasks()) == before - 1

    play(scene)

"""Open HOP: who can dial nobody but the relay uses stock petals servers that listen on TCP only.

Real parts: the relay as its own process, stock petals servers with their p2pd. The client is ours, with
a slot on the relay and circuits only, as a tab has them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interop.cases import Case
from interop.running import free_port, native_tab, petals_server, relay, status

from kwaainet.errors import Unreachable
from kwaainet.identity.keys import PrivateKey
from kwaainet.inference.sampling import Sampling
from kwaainet.native.engine import NativeEngine
from kwaainet.native.host import NativeHost
from kwaainet.native.model import Model, open_model
from kwaainet.native.store import NoStore
from kwaainet.node.client import Client, generate
from kwaainet.node.dht import DhtNode
from kwaainet.node.directory import dht_reader, directory_reader
from kwaainet.node.model import load_span
from kwaainet.types import BlockRange, PeerId
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertInfo, ExpertUID, PingRequest

PATIENCE = 180.0
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
NEW_TOKENS = 8


@dataclass(frozen=True)
class Swarm:
    """A relay, a stock server of blocks 1 to 3, and servers of the rest that live behind the relay."""

    case: Case
    relay: dict[str, Any]
    stock: PeerId

    @property
    def status(self) -> dict[str, Any]:
        return status(self.relay)

    def model(self) -> Model:
        return open_model(self.case.folder, name=self.case.prefix)


@pytest.fixture(scope="module")
def swarm(odd: Case, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    folder = tmp_path_factory.mktemp("open-hop")
    with ExitStack() as stack:
        origin = stack.enter_context(relay(folder, "--open-hop-private"))
        for blocks in ("0:1", "3:5"):
            stack.enter_context(native_tab(folder, origin, odd, blocks, f"tab-{blocks[0]}"))
        stack.enter_context(petals_server(folder, odd.folder, odd.prefix, "1:3", origin["tcp"], free_port()))
        yield Swarm(odd, origin, asyncio.run(_find(odd, origin["tcp"])))


async def _find(case: Case, address: str) -> PeerId:
    """Who serves block 1."""
    async with AsyncExitStack() as stack:
        host = await _host(stack)
        dht = DhtNode(host, now=time.time, random_bytes=os.urandom, client_mode=True)
        stack.push_async_callback(dht.close)
        await dht.join([await host.connect(address)])
        read = dht_reader(dht)
        async with asyncio.timeout(PATIENCE):
            while not (servers := (await read(case.prefix, case.blocks))[1]):
                await asyncio.sleep(0.2)
    return next(iter(servers))


async def _host(stack: AsyncExitStack, *listen: str) -> NativeHost:
    host = await NativeHost.create(PrivateKey(os.urandom(32)), listen)
    stack.push_async_callback(host.close)
    await host.listen()
    return host


@asynccontextmanager
async def tab_like(swarm: Swarm, *, slot: bool = True) -> AsyncIterator[NativeHost]:
    """A host that is connected to the relay over a WebSocket, and to others through it."""
    address = next(address for address in swarm.relay["maddrs"] if "/ws/" in address)
    async with AsyncExitStack() as stack:
        host = await _host(stack, *([address + "/p2p-circuit"] if slot else []))
        await host.connect(address)
        yield host


def through(swarm: Swarm, peer: PeerId) -> str:
    return f"{swarm.relay['tcp']}/p2p-circuit/p2p/{peer}"


async def tokens(client: Client, model: Model) -> list[int]:
    head = model.load_head()
    async with client.session(len(PROMPT) + NEW_TOKENS) as session:
        made = generate(session, head, PROMPT, NEW_TOKENS, sampling=Sampling(), chance=lambda: 0.0)
        return [token async for token in made]


def client_of(swarm: Swarm, host: NativeHost) -> Client:
    read = directory_reader(host, PeerId.parse(swarm.relay["peer_id"]))
    return Client(
        host, read, swarm.case.prefix, swarm.case.blocks, now=time.perf_counter, random_bytes=os.urandom
    )


def test_a_stock_server_answers_through_the_relay(swarm: Swarm) -> None:
    async def scene() -> None:
        async with tab_like(swarm) as host:
            await host.connect(through(swarm, swarm.stock))
            ping = await host.call(
                swarm.stock, "DHTProtocol.rpc_ping", PingRequest().encode(), timeout=PATIENCE
            )
            assert ping
            request = ExpertUID(f"{swarm.case.prefix}.1").encode()
            info = await host.call(
                swarm.stock, "TransformerConnectionHandler.rpc_info", request, timeout=PATIENCE
            )
            assert "version" in msgpack.loads(ExpertInfo.decode(info).serialized_info)
            assert all(link.address.is_circuit for link in host.network.links_to(swarm.stock))
            assert swarm.status["open_hop"]["circuits"] == 1
            assert swarm.status["open_hop"]["bytes"] > 0

    asyncio.run(scene())


def test_a_chain_of_a_tab_a_stock_server_and_a_tab(swarm: Swarm, odd: Case) -> None:
    async def scene() -> None:
        model = swarm.model()
        async with tab_like(swarm) as host:
            await host.connect(through(swarm, swarm.stock))
            client = client_of(swarm, host)
            hops = await client.chain()
            assert [str(hop.blocks) for hop in hops] == ["0:1", "1:3", "3:5"]
            assert hops[1].peer == swarm.stock
            assert await tokens(client, model) == await expected(model)
            links = [link for hop in hops for link in host.network.links_to(hop.peer)]
            assert len(links) >= 3
            assert all(link.address.is_circuit for link in links)

    asyncio.run(scene())


def test_who_holds_no_slot_is_refused(swarm: Swarm) -> None:
    async def scene() -> None:
        before = swarm.status["open_hop"]["refused"].get("no_slot", 0)
        async with tab_like(swarm, slot=False) as host:
            with pytest.raises(Unreachable, match="NO_RESERVATION"):
                await host.connect(through(swarm, swarm.stock))
        assert swarm.status["open_hop"]["refused"]["no_slot"] == before + 1

    asyncio.run(scene())


def test_a_connected_peer_that_serves_nothing_is_refused(swarm: Swarm) -> None:
    async def scene() -> None:
        async with tab_like(swarm) as host, tab_like(swarm, slot=False) as idle:
            with pytest.raises(Unreachable, match="NO_RESERVATION"):
                await host.connect(through(swarm, idle.peer_id))
        assert swarm.status["open_hop"]["refused"]["not_announced"] == 1

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("flag", "status"), [((), "PERMISSION_DENIED"), (("--no-open-hop",), "NO_RESERVATION")]
)
def test_another_relay_reaches_no_private_address_unless_told(
    swarm: Swarm, tmp_path: Path, flag: tuple[str, ...], status: str
) -> None:
    async def scene(other: Swarm) -> None:
        async with tab_like(other) as host:
            with pytest.raises(Unreachable, match=status):
                await host.connect(through(other, other.stock))

    with relay(tmp_path, "--initial-peers", swarm.relay["tcp"], *flag) as origin:
        other = Swarm(swarm.case, origin, swarm.stock)
        asyncio.run(scene(other))
        refused = (other.status["open_hop"] or {}).get("refused")
        assert refused == (None if flag else {"private": 1})


async def expected(model: Model) -> list[int]:
    """The same tokens by one engine of all blocks, in this process."""
    engine, head = NativeEngine(1), model.load_head()
    await load_span(
        model.manifest, BlockRange(0, model.config.num_hidden_layers), model.source, NoStore(), engine
    )
    cache = await engine.open_cache(1, len(PROMPT) + NEW_TOKENS)
    made: list[int] = []
    while len(made) < NEW_TOKENS:
        output = await engine.run(cache, head.embed([made[-1]] if made else PROMPT))
        made.append(int(np.argmax(head.logits(output[0, -1]))))
    await engine.close()
    return made

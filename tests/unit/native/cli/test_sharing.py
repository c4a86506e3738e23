"""Two relays of one swarm: what each knows of the other's tabs."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from kwaainet.dht.protocol import RPC_PING, Pong
from kwaainet.libp2p import kad
from kwaainet.native.cli.joining import join_dht, open_host
from kwaainet.native.cli.seed import serve_as_seed
from kwaainet.native.cli.sharing import among_relays, for_browsers
from kwaainet.native.host import NativeHost
from kwaainet.native.relay import Relay
from kwaainet.node.relays import Relays
from kwaainet.types import PeerId

LISTEN = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"]


async def wait_for(what: Callable[[], bool]) -> None:
    while not what():
        await asyncio.sleep(0.01)


def play(scene: Callable[[list[NativeHost], list[Relays], NativeHost], Awaitable[None]]) -> None:
    """Two relays, and a tab with a slot on the first."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            hosts: list[NativeHost] = []
            among: list[Relays] = []
            for _ in range(2):
                host = await open_host(stack, listen=LISTEN)
                relay = Relay(host)
                await host.listen()
                dht = await join_dht(stack, host, [one.addresses[0] for one in hosts])
                serve_as_seed(stack, host, relay, dht, allow_private=False)
                among.append(among_relays(stack, host, relay, dht))
                hosts.append(host)
            tab = await open_host(stack, listen=[f"{hosts[0].addresses[0]}/p2p-circuit"])

            async def ping(peer: PeerId, request: bytes) -> bytes:
                return Pong(None, time.time(), False).encode()

            tab.handle_unary(RPC_PING, ping)
            await tab.listen()
            for relays in among:
                await relays.announce()
                await relays.look()
            await wait_for(lambda: bool(among[1].circuits(tab.peer_id)))
            await scene(hosts, among, tab)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_each_tells_kad_and_browsers_of_the_other_and_reaches_its_tabs() -> None:
    async def scene(hosts: list[NativeHost], among: list[Relays], tab: NativeHost) -> None:
        told = [str(one) for one in hosts[1].routing.addresses(tab.peer_id)]
        assert told == [f"{address}/p2p-circuit" for address in hosts[0].addresses]
        records = hosts[1].routing._closer(kad.Request(kad.FIND_NODE, tab.peer_id.data), hosts[0].peer_id)
        assert records[0].peer == tab.peer_id
        assert for_browsers(among[0]) == [one for one in hosts[1].addresses if "/ws/" in one]
        assert await among[1].reaches(tab.peer_id)
        assert not await among[0].reaches(tab.peer_id), "the other does not hold it"
        await tab.close()
        assert not await among[1].reaches(tab.peer_id), "it says so, but nobody answers there"

    play(scene)

"""A relay's node as a seed."""

import asyncio
import os
import time
from contextlib import AsyncExitStack

from kwaainet.native.cli.joining import join_dht, open_host
from kwaainet.native.cli.seed import serve_as_seed
from kwaainet.native.reachability import PROTOCOL
from kwaainet.native.relay import Relay


def test_it_speaks_for_itself_and_for_who_holds_a_slot_and_knows_shapes() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            host = await open_host(stack, listen=["/ip4/127.0.0.1/tcp/0"])
            relay = Relay(host)
            await host.listen()
            dht = await join_dht(stack, host, [])
            serve_as_seed(stack, host, relay, dht, allow_private=False)
            tab = await open_host(stack, listen=[f"{host.addresses[0]}/p2p-circuit"])
            await tab.listen()
            speaks_for = dht.guard.speaks_for
            assert speaks_for(str(host.peer_id))
            assert speaks_for(str(tab.peer_id))
            assert not any(
                map(speaks_for, ("nobody", 7, "12D3KooWFw697Ur2KZ2SSjvP8Md1udsjrXzbsKEaFVAY5dc6hYWn"))
            )
            assert not await dht.store("_petals.models", "m", os.urandom(3), time.time() + 60)
            assert dht.guard.refused["shape"]
            assert host.network.supports(PROTOCOL)

    asyncio.run(asyncio.wait_for(main(), 60))

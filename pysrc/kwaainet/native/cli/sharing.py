"""A relay among relays: finds the others, tells kad and browsers of them, and leaves to them whom they reach.

Rule of the file: composition only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from ...dht.protocol import RPC_PING, Ping, Pong
from ...errors import KwaaiNetError
from ...libp2p.multiaddr import Multiaddr
from ...node.relays import ELSEWHERE_TIMEOUT, Records, Relays
from ...types import PeerId
from ..host import NativeHost
from ..relay import Relay

MAX_OFFERED = 4  # addresses of other relays that a page is told


def among_relays(stack: AsyncExitStack, host: NativeHost, relay: Relay, records: Records) -> Relays:
    """The relays of the swarm from now on, with ours among them."""

    async def reach(peer: PeerId, addresses: Sequence[str]) -> bool:
        """The first answer counts."""
        tries = [asyncio.ensure_future(_ping(host, f"{address}/p2p/{peer}")) for address in addresses]
        try:
            for one in asyncio.as_completed(tries):
                if await one:
                    return True
            return False
        finally:
            for one in tries:
                one.cancel()

    def circuits(peer: PeerId) -> list[Multiaddr]:
        return [Multiaddr.parse(address) for address in relays.circuits(peer)]

    relays = Relays(host, records, lambda: relay.held, reach, time.time)
    host.routing.add_source(circuits)
    relay.elsewhere = lambda peer: bool(relays.circuits(peer))
    running = asyncio.ensure_future(relays.run())
    stack.callback(running.cancel)
    return relays


def for_browsers(relays: Relays) -> list[str]:
    """Other relays' addresses that a page can dial."""
    dialable = (one for one in relays.addresses if Multiaddr.parse(one).transport in ("ws", "wss"))
    return list(dialable)[:MAX_OFFERED]


async def _ping(host: NativeHost, address: str) -> bool:
    try:
        request = Ping(None, validate=False).encode()
        Pong.decode(await host.call_through(address, RPC_PING, request, timeout=ELSEWHERE_TIMEOUT))
    except (KwaaiNetError, TimeoutError):
        return False
    return True

"""A host of our own and its node in the DHT, as relay, server and client all need them.

Rule of the file: what is opened is pushed on the caller's exit stack, so that it closes in reverse order.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from ...errors import ClockSkew, KwaaiNetError, Unreachable
from ...identity.keys import PrivateKey
from ...node.dht import DhtNode
from ...swarm.bootstraps import spelled_out
from ...types import PeerId
from ..crypto import NativeCrypto
from ..host import NativeHost
from ..identity_file import load_or_create_identity

log = logging.getLogger(__name__)

LOOK_PERIOD = 30.0  # seconds between looks whether anybody of the swarm is left
MAX_MET = 64  # addresses remembered for when nobody is


async def open_host(
    stack: AsyncExitStack,
    *,
    listen: Sequence[str] = (),
    announce: Sequence[str] = (),
    identity_path: Path | None = None,
    of_relay: bool = False,
) -> NativeHost:
    """A host that does not listen yet; without ``identity_path`` its identity is new and not kept."""
    crypto = NativeCrypto()
    if identity_path is None:
        identity = PrivateKey(os.urandom(32))
    else:
        identity = load_or_create_identity(identity_path, crypto, of_relay=of_relay)
    host = await NativeHost.create(identity, listen=listen, announce=announce, crypto=crypto)
    stack.push_async_callback(host.close)
    return host


async def join_dht(
    stack: AsyncExitStack,
    host: NativeHost,
    initial_peers: Sequence[str],
    *,
    client_mode: bool = False,
    known: Sequence[str] = (),
) -> DhtNode:
    """A node in the swarm of ``initial_peers`` (multiaddrs, or names of ``swarm.bootstraps``), or the first
    of a new one.

    ``known`` are peers of an earlier run: one of them will do as well, and none of them must. Raises what
    connecting to the first of ``initial_peers`` raises if nobody at all is there. From then on the node comes
    back by itself when it has lost everybody, through any of these or of those it met meanwhile.
    """
    initial_peers = spelled_out(initial_peers)
    dht = DhtNode(host, now=time.time, random_bytes=os.urandom, client_mode=client_mode)
    stack.push_async_callback(dht.close)
    asked = list(dict.fromkeys([*initial_peers, *known]))
    outcomes = await asyncio.gather(*map(host.connect, asked), return_exceptions=True)
    there = [outcome for outcome in outcomes if isinstance(outcome, PeerId)]
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            if not isinstance(outcome, KwaaiNetError) or (initial_peers and not there):
                raise outcome
            log.warning("a peer is not there: %s", outcome)
    try:
        await dht.join(list(dict.fromkeys(there)))
    except (Unreachable, ClockSkew) as error:
        if initial_peers:
            raise
        log.warning("none of the peers known before will do (%s); a new swarm begins", error)
        await dht.join([])
    staying = asyncio.ensure_future(_stay(host, dht, asked))
    stack.callback(staying.cancel)
    return dht


async def _stay(host: NativeHost, dht: DhtNode, asked: Sequence[str]) -> None:
    """Whenever the node is left alone, go back to where it came from, or to whom it met."""
    met: list[str] = []
    while True:
        await asyncio.sleep(LOOK_PERIOD)
        if len(dht.table):
            met = known_addresses(host, dht)[:MAX_MET]
        elif wanted := list(dict.fromkeys([*asked, *met])):
            outcomes = await asyncio.gather(*map(host.connect, wanted), return_exceptions=True)
            there = list(dict.fromkeys(one for one in outcomes if isinstance(one, PeerId)))
            back = bool(there) and await dht.rejoin(there)
            log.warning(
                "everybody in the swarm was lost; %s", "it is found again" if back else "nobody answers"
            )


def known_addresses(host: NativeHost, dht: DhtNode) -> list[str]:
    """Where the peers in the routing table can be dialled, one address each."""
    found = ((one.peer_id, host.network.peerstore.addresses(one.peer_id)) for one in dht.table)
    direct = ((peer, [one for one in addresses if not one.is_circuit]) for peer, addresses in found)
    return [str(addresses[0].with_peer(peer)) for peer, addresses in direct if addresses]

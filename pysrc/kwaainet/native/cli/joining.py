"""A host of our own and its node in the DHT, as relay, server and client all need them.

Rule of the file: what is opened is pushed on the caller's exit stack, so that it closes in reverse order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from ...identity.keys import PrivateKey
from ...node.dht import DhtNode
from ..crypto import NativeCrypto
from ..host import NativeHost
from ..identity_file import load_or_create_identity


async def open_host(
    stack: AsyncExitStack,
    *,
    listen: Sequence[str] = (),
    announce: Sequence[str] = (),
    identity_path: Path | None = None,
) -> NativeHost:
    """A host that does not listen yet; without ``identity_path`` its identity is new and not kept."""
    crypto = NativeCrypto()
    if identity_path is None:
        identity = PrivateKey(os.urandom(32))
    else:
        identity = load_or_create_identity(identity_path, crypto)
    host = await NativeHost.create(identity, listen=listen, announce=announce, crypto=crypto)
    stack.push_async_callback(host.close)
    return host


async def join_dht(
    stack: AsyncExitStack, host: NativeHost, initial_peers: Sequence[str], *, client_mode: bool = False
) -> DhtNode:
    """A node in the swarm of ``initial_peers`` (multiaddrs), or the first of a new one."""
    dht = DhtNode(host, now=time.time, random_bytes=os.urandom, client_mode=client_mode)
    stack.push_async_callback(dht.close)
    await dht.join([await host.connect(address) for address in initial_peers])
    return dht

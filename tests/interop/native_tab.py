"""A tab's stand-in, without a browser: ``native_tab.py RELAY_MULTIADDR[,ANOTHER] MODEL PREFIX A:B``.

The node of a tab on the native ports: reachable through slots on its relays only, and announced by the first
of them that it is connected to. Prints {"event": "online", "peer_id"}.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from kwaainet.identity.keys import PrivateKey
from kwaainet.native.engine import NativeEngine
from kwaainet.native.gradients import NativeGradients
from kwaainet.native.host import NativeHost
from kwaainet.native.model import open_model
from kwaainet.native.store import NoStore
from kwaainet.node.announce import RelayAnnouncer
from kwaainet.node.config import NodeConfig
from kwaainet.node.server import ServerNode
from kwaainet.types import BlockRange, PeerId


async def main(relays: str, path: str, prefix: str, blocks: str) -> None:
    model = open_model(Path(path), name=prefix)
    addresses = relays.split(",")
    host = await NativeHost.create(PrivateKey(os.urandom(32)), [f"{one}/p2p-circuit" for one in addresses])
    slots = [await host.connect(one) for one in addresses]

    def speaker() -> PeerId:
        return next((one for one in slots if one in host.connected_peers), slots[0])

    node = ServerNode(
        NodeConfig(prefix, BlockRange.parse(blocks)),
        host=host,
        engine=NativeEngine(1),
        store=NoStore(),
        source=model.source,
        manifest=model.manifest,
        announcer=RelayAnnouncer(host, speaker),
        now=time.time,
        gradients=NativeGradients(1),
    )
    await node.start()
    host.on_peer_lost(
        lambda peer: said.append(asyncio.ensure_future(node.announce_again())) if peer in slots else None
    )
    said: list[asyncio.Future[None]] = []
    print(json.dumps({"event": "online", "peer_id": str(host.peer_id)}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

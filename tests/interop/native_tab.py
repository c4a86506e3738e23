"""A tab's stand-in, without a browser: ``native_tab.py RELAY_MULTIADDR MODEL PREFIX A:B``.

The node of a tab on the native ports: reachable through a slot on its relay only, and announced by the
relay. Prints {"event": "online", "peer_id"}.
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
from kwaainet.types import BlockRange


async def main(relay: str, path: str, prefix: str, blocks: str) -> None:
    model = open_model(Path(path), name=prefix)
    host = await NativeHost.create(PrivateKey(os.urandom(32)), [relay + "/p2p-circuit"])
    node = ServerNode(
        NodeConfig(prefix, BlockRange.parse(blocks)),
        host=host,
        engine=NativeEngine(1),
        store=NoStore(),
        source=model.source,
        manifest=model.manifest,
        announcer=RelayAnnouncer(host, await host.connect(relay)),
        now=time.time,
        gradients=NativeGradients(1),
    )
    await node.start()
    print(json.dumps({"event": "online", "peer_id": str(host.peer_id)}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

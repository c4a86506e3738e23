"""A circuit relay of the py-libp2p package, run in an environment of its own: what ours is measured against.

``py_libp2p_relay.py PORT`` listens on that WebSocket port and prints one JSON line when ready, like
``kwaainet relay``. The package is as installed; only its limits are out of the way of the load.
"""

import json
import sys

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network.config import ConnectionConfig
from libp2p.rcmgr.connection_limits import ConnectionLimits
from libp2p.rcmgr.manager import ResourceLimits, ResourceManager
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID, STOP_PROTOCOL_ID, CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

MANY = 4096
FOR_EVER = 1 << 30  # seconds
NO_LIMIT = 1 << 40  # bytes: a limit of 0 would end circuits at once


async def main(port: int) -> None:
    address = Multiaddr(f"/ip4/127.0.0.1/tcp/{port}/ws")
    host = new_host(
        key_pair=create_new_key_pair(),
        listen_addrs=[address],
        muxer_preference="YAMUX",
        connection_config=ConnectionConfig(
            max_connections=MANY, min_connections=0, low_watermark=0, high_watermark=MANY
        ),
        resource_manager=ResourceManager(
            limits=ResourceLimits(max_connections=MANY, max_streams=16 * MANY, max_memory_mb=16384),
            connection_limits=ConnectionLimits(),
            enable_rate_limiting=False,
        ),
    )
    limits = RelayLimits(duration=FOR_EVER, data=NO_LIMIT, max_circuit_conns=MANY, max_reservations=MANY)
    protocol = CircuitV2Protocol(host, limits=limits, allow_hop=True)
    async with host.run(listen_addrs=[address]):
        host.set_stream_handler(PROTOCOL_ID, protocol._handle_hop_stream)
        host.set_stream_handler(STOP_PROTOCOL_ID, protocol._handle_stop_stream)
        async with background_trio_service(protocol):
            print(json.dumps({"event": "ready", "maddrs": [f"{address}/p2p/{host.get_id()}"]}), flush=True)
            await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))

"""What /status says: of the moment, in the words of Syncthing's relays too, and nobody's address."""

from __future__ import annotations

import asyncio
import json
import os
import re
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any, cast

from kwaainet.identity.keys import PrivateKey
from kwaainet.native import operator_page
from kwaainet.native.cli.relay_status import RelayStatus
from kwaainet.native.host import NativeHost
from kwaainet.native.relay import Relay

STRELAYSRV = {"bytesProxied", "kbps10s1m5m15m30m60m", "numActiveSessions", "numConnections", "numProxies"}
STRELAYSRV |= {"numPendingSessionKeys", "options", "startTime", "uptimeSeconds", "version"}


def test_figures_move_during_a_session_and_name_no_address() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            hub = await NativeHost.create(PrivateKey(os.urandom(32)), ["/ip4/127.0.0.1/tcp/0"])
            relay = Relay(hub)
            await hub.listen()
            slot = f"{hub.addresses[0]}/p2p-circuit"
            tab = await NativeHost.create(PrivateKey(os.urandom(32)), [slot])
            client = await NativeHost.create(PrivateKey(os.urandom(32)))
            for one in (hub, tab, client):
                stack.push_async_callback(one.close)
            await tab.listen()
            watched = RelayStatus(stack, hub, relay)
            announcements: Any = SimpleNamespace(announced={})

            def status() -> dict[str, Any]:
                return cast(dict[str, Any], json.loads(json.dumps(watched.status(announcements, None))))

            async def echo(peer: object, request: bytes) -> bytes:
                return request

            tab.handle_unary("Echo.rpc", echo)
            await client.connect(f"{slot}/p2p/{tab.peer_id}")
            before = status()
            assert before.keys() >= STRELAYSRV
            assert (before["numActiveSessions"], before["numConnections"], before["numProxies"]) == (1, 2, 2)
            await client.call(tab.peer_id, "Echo.rpc", bytes(100_000), timeout=60)
            after = status()
            assert after["numActiveSessions"] == 1, "the session goes on"
            assert after["bytesProxied"] - before["bytesProxied"] > 200_000
            assert after["kbps10s1m5m15m30m60m"][0] > before["kbps10s1m5m15m30m60m"][0]
            assert "127.0.0.1" not in json.dumps(after)
            wanted = set(re.findall(r"status\.(\w+)", operator_page.SCRIPT))
            assert wanted <= after.keys(), "the operator's page asks for what there is"

    asyncio.run(asyncio.wait_for(main(), 60))

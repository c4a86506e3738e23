"""What ``/status`` (the same is ``/status.json``) says of a relay, and what watches it for that.

Rule of the file: figures of the moment, read when they are asked for; nobody's address is among them.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

from ... import __version__
from ...node.announce import AnnounceHandler
from ...node.gateway import Gateway
from ...swarm.announcement import Announcement
from ..host import NativeHost
from ..relay import Relay
from ..throughput import PERIOD, Throughput
from . import relay_tls
from .gateway import describe


class RelayStatus:
    """Of one relay, from when it is made."""

    def __init__(self, stack: AsyncExitStack, host: NativeHost, relay: Relay) -> None:
        self._host, self._relay = host, relay
        self._throughput = Throughput(time.monotonic(), time.time())
        sampling = asyncio.ensure_future(self._sample())
        stack.callback(sampling.cancel)

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            self._throughput.sample(time.monotonic(), self._relay.relayed_bytes)

    def figures(self) -> dict[str, Any]:
        """Of the relay's health, for the page's map."""
        host, relay = self._host, self._relay
        return {
            "peer_id": str(host.peer_id),
            "peers": len(host.connected_peers),
            "reservations": relay.reservations,
            "circuits": relay.circuits,
            "relayed_bytes": relay.relayed_bytes,
            "draining": relay.draining,
        }

    def status(self, announcements: AnnounceHandler, gateway: Gateway | None) -> dict[str, Any]:
        """All of it: ours first, then what strelaysrv calls so."""
        host, relay, admission = self._host, self._relay, self._host.network.admission
        live = announcements.announced
        return {
            **self.figures(),
            "certificate": relay_tls.describe(host.network.doors),
            "open_hop": relay.open_hop.status if relay.open_hop is not None else None,
            "gateway": describe(gateway) if gateway is not None else None,
            "announced": {str(peer): [_describe(one) for one in ones] for peer, ones in live.items()},
            "refused": dict(sorted((relay.refused + admission.refused).items())),
            "bans": len(admission.rules.bans(time.time())),
            "version": __version__,
            **self._throughput.describe(time.monotonic(), relay.relayed_bytes),
            "numActiveSessions": relay.circuits,
            "numConnections": sum(1 for _ in host.network.links()),
            "numPendingSessionKeys": host.network.opening,
            "numProxies": 2 * relay.circuits,
            "options": {
                "global-rate": admission.limits.bandwidth,
                "per-session-rate": admission.limits.peer_bandwidth,
                "limits": admission.limits.describe(),
            },
        }


def _describe(announcement: Announcement) -> dict[str, Any]:
    blocks = announcement.server.blocks
    return {
        "prefix": announcement.prefix,
        "state": announcement.server.state.name,
        "blocks": [blocks.start, blocks.end] if blocks else None,
    }

"""What makes a relay's node a seed of the swarm: others join through it, ask nobody else, and have it check
them.

Rule of the file: composition only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack

from ...errors import InputError
from ...node.dht import DhtNode
from ...swarm.shapes import SwarmShapes
from ...types import PeerId
from ..host import NativeHost
from ..reachability import Reachability
from ..relay import Relay
from ..routing import SETTLE_PERIOD

log = logging.getLogger(__name__)


def serve_as_seed(
    stack: AsyncExitStack, host: NativeHost, relay: Relay, dht: DhtNode, *, allow_private: bool
) -> None:
    """Hold what others store to its shape and to whose it is, keep a copy of what we store, and check who
    asks."""

    def speaks_for(subkey: object) -> bool:
        """Whether it names us, or a peer that holds a slot here: whom we announce."""
        try:
            peer = PeerId.parse(subkey) if isinstance(subkey, str) else None
        except InputError:
            return False
        return peer is not None and (peer == host.peer_id or relay.has_reservation(peer))

    dht.keeps_own = True
    dht.guard.shape_of = SwarmShapes().of
    dht.guard.speaks_for = speaks_for
    Reachability(host, time.time, allow_private=allow_private)
    settling = asyncio.ensure_future(_settle(host))
    stack.callback(settling.cancel)


async def _settle(host: NativeHost) -> None:
    """Be known to the kad servers nearest to us, and stay so."""
    while True:
        log.info("%d kad servers near us know us", await host.settle())
        await asyncio.sleep(SETTLE_PERIOD)

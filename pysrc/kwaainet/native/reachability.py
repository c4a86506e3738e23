"""Telling peers whether others can call them: ``ReachabilityProtocol.rpc_check``, as Petals' servers ask it.

Follows petals 2.2.0.post1 (src/petals/server/reachability.py): a starting server asks some peers of the DHT
to check it, and uses relays unless half of them could reach it. KwaaiNet's bootstraps serve it the same way.
As there, the check is made by another peer than the one that was asked, over a connection of its own: one
that the server opened itself proves nothing. Rule of the file: nobody can make us dial much, or anywhere but
where a peer says that it is itself; who comes from a public address can have no private one dialled.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence

from ..errors import CapacityError, KwaaiNetError, RequestError
from ..identity.keys import PrivateKey
from ..libp2p.open_hop import is_public
from ..node.rate_limit import RateLimit
from ..ports import Clock
from ..types import PeerId
from ..wire import messages
from .host import NativeHost

log = logging.getLogger(__name__)

PROTOCOL = "ReachabilityProtocol.rpc_check"
CHECK_TIMEOUT = 5.0  # seconds, the wait_timeout of Petals; its callers wait twice as long
MAX_PER_MINUTE = 12  # checks of one peer; a server asks once or twice at its start
MAX_PEERS = 4096  # peers whose checks are counted
MAX_CHECKS = 32  # under way at once
MAX_ADDRESSES = 8  # of one peer


class Reachability:
    """Answers on ``host`` with probes of its own. Close it before the host."""

    def __init__(self, host: NativeHost, now: Clock, *, allow_private: bool = False) -> None:
        self._host, self._now, self._allow_private = host, now, allow_private
        self._rate = RateLimit("checks of reachability", MAX_PER_MINUTE, MAX_PEERS)
        self._under_way = 0
        host.handle_unary(PROTOCOL, self.rpc_check)

    async def rpc_check(self, peer: PeerId, request: bytes) -> bytes:
        """Whether the peer named in ``node_id`` answers a probe; of ourselves, that we are here."""
        asked = messages.PingRequest.decode(request)
        try:
            target = PeerId(asked.peer.node_id if asked.peer is not None else b"")
        except KwaaiNetError:
            raise RequestError(
                "rpc_check names no peer; node_id holds the peer id of whom to check"
            ) from None
        available = True
        if target != self._host.peer_id:
            self._rate.count(peer, self._now())
            available = await self._check(peer, target)
        return messages.PingResponse(available=available).encode()

    async def _check(self, asker: PeerId, target: PeerId) -> bool:
        if self._under_way >= MAX_CHECKS:
            raise CapacityError(f"{MAX_CHECKS} checks are under way here; ask another peer")
        addresses = self._addresses(asker, target)
        self._under_way += 1
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                return await _probe(target, addresses)
        except TimeoutError:
            return False
        finally:
            self._under_way -= 1

    def _addresses(self, asker: PeerId, target: PeerId) -> list[str]:
        """Where the target says that it is, without relays in between."""
        network = self._host.network
        link = network.link(asker)
        came_privately = (
            link is not None and not link.address.is_circuit and not is_public(link.address.parts[0][1])
        )
        found = [one for one in network.peerstore.addresses(target) if one.transport and not one.is_circuit]
        if not (self._allow_private or came_privately):
            found = [one for one in found if one.parts[0][0] in ("ip4", "ip6") and is_public(one.parts[0][1])]
        calm = [one for one in found[:MAX_ADDRESSES] if network.too_often(one) is None]
        return [str(one.with_peer(target)) for one in calm]


async def _probe(target: PeerId, addresses: Sequence[str]) -> bool:
    """Whether a stranger to the target can connect to it and is answered."""
    probe = await NativeHost.create(PrivateKey(os.urandom(32)))
    question = messages.PingRequest(peer=messages.NodeInfo(target.data)).encode()
    try:
        for address in addresses:
            try:
                await probe.connect(address)
                reply = await probe.call(target, PROTOCOL, question, timeout=CHECK_TIMEOUT)
                return messages.PingResponse.decode(reply).available
            except (KwaaiNetError, TimeoutError) as error:
                log.debug("%s is not reached at %s: %s", target, address, error)
        return False
    finally:
        await probe.close()

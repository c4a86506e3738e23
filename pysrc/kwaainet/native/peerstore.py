"""What is known of other peers: where they can be dialled and what they said of themselves.

Rule of the file: both tables are bounded, the least recently touched peer goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from ..libp2p.identify import Description
from ..libp2p.multiaddr import Multiaddr
from ..types import PeerId

MAX_PEERS = 4096
MAX_ADDRESSES = 32  # per peer

_NOTHING = Description()


class Peerstore:
    """Addresses outlive a connection; a description does not."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[PeerId, dict[Multiaddr, None]] = OrderedDict()
        self._descriptions: dict[PeerId, Description] = {}

    def add(self, peer: PeerId, addresses: Iterable[Multiaddr]) -> None:
        """Learn addresses; the newest are tried first."""
        wanted = dict.fromkeys(address.without_peer() for address in addresses if address.parts)
        if not wanted:
            return
        merged = {**wanted, **self._addresses.get(peer, {})}
        self._addresses[peer] = dict.fromkeys(list(merged)[:MAX_ADDRESSES])
        self._addresses.move_to_end(peer)
        while len(self._addresses) > MAX_PEERS:
            self._addresses.popitem(last=False)

    def describe(self, peer: PeerId, description: Description) -> None:
        """A connected peer identified itself: what it lists now replaces what it listed before."""
        self._descriptions[peer] = description
        self.forget(peer)
        self.add(peer, description.addresses)

    def addresses(self, peer: PeerId) -> list[Multiaddr]:
        """Known addresses, without ``/p2p/peer``."""
        return list(self._addresses.get(peer, ()))

    def description(self, peer: PeerId) -> Description:
        """What a connected peer said of itself (empty if it has not yet)."""
        return self._descriptions.get(peer, _NOTHING)

    def disconnected(self, peer: PeerId) -> None:
        """The last connection to the peer is gone."""
        self._descriptions.pop(peer, None)

    def forget(self, peer: PeerId) -> None:
        """Drop addresses that turned out wrong."""
        self._addresses.pop(peer, None)

"""The peer routing of ``/ipfs/kad/1.0.0``: FIND_NODE, asked and answered.

Follows the libp2p kad-dht spec and what go-libp2p-kad-dht needs of a server. Records and providers
are not served: Hivemind keeps its own in its own DHT. Rule of the file: distances are XOR of sha256
of peer ids, and an answer carries at most ``K`` peers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import KwaaiNetError, ProtocolError
from ..types import PeerId
from ..wire import protobuf
from .identify import parse_addresses
from .multiaddr import Multiaddr

PROTOCOL = "/ipfs/kad/1.0.0"
FIND_NODE, PING = 4, 5
_ANSWERABLE = {1: "GET_VALUE", 3: "GET_PROVIDERS", FIND_NODE: "FIND_NODE"}

K = 20  # peers per answer
ALPHA = 3  # peers asked at once
MAX_ASKED = 24  # peers asked in one lookup
MAX_MESSAGE = 256 << 10  # bytes; 20 peers with 64 addresses take about 100 KiB
MAX_KEY = 128
_CONNECTED = 1


@dataclass(frozen=True, slots=True)
class _Peer(protobuf.Message):
    id: bytes | None = protobuf.optional(1, protobuf.BYTES)
    addresses: tuple[bytes, ...] = protobuf.many(2, protobuf.BYTES)
    connection: int | None = protobuf.optional(3, protobuf.UINT)


@dataclass(frozen=True, slots=True)
class _Message(protobuf.Message):
    type: int | None = protobuf.optional(1, protobuf.UINT)
    key: bytes | None = protobuf.optional(2, protobuf.BYTES)
    closer_peers: tuple[_Peer, ...] = protobuf.many(8, _Peer)


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """A peer and where it can be dialled (addresses without its own ``/p2p``)."""

    peer: PeerId
    addresses: tuple[Multiaddr, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A question: the peers closest to ``key`` (for FIND_NODE a peer id's bytes)."""

    type: int
    key: bytes


def read_request(message: bytes) -> Request:
    """From a message. Raises ``ProtocolError`` for requests that are not served."""
    request = _Message.decode(message)
    kind, key = request.type or 0, request.key or b""
    if kind != PING and kind not in _ANSWERABLE:
        raise ProtocolError(f"kad message type {kind} is not served here")
    if len(key) > MAX_KEY:
        raise ProtocolError(f"a kad key of {len(key)} bytes is over the {MAX_KEY} allowed")
    return Request(kind, key)


def write_response(request: Request, peers: Iterable[PeerRecord]) -> bytes:
    """The answer: the closer peers, all of them taken as connected to the answering side."""
    rows = tuple(
        _Peer(record.peer.data, tuple(address.encode() for address in record.addresses), _CONNECTED)
        for record in peers
    )
    return _Message(request.type, request.key or None, rows).encode()


def write_find_node(target: PeerId) -> bytes:
    """The question where a peer is."""
    return _Message(FIND_NODE, target.data).encode()


def read_response(message: bytes) -> list[PeerRecord]:
    """The peers of an answer; rows without a valid peer id are left out. Raises ``ProtocolError``."""
    records = []
    for row in _Message.decode(message).closer_peers[: 2 * K]:
        try:
            peer = PeerId(row.id or b"")
        except KwaaiNetError:
            continue
        records.append(PeerRecord(peer, parse_addresses(row.addresses)))
    return records


def distance(key: bytes, peer: PeerId) -> int:
    """How far a peer is from a key."""
    one, other = hashlib.sha256(key).digest(), hashlib.sha256(peer.data).digest()
    return int.from_bytes(one, "big") ^ int.from_bytes(other, "big")


def closest(key: bytes, peers: Iterable[PeerId], count: int = K) -> list[PeerId]:
    """The ``count`` peers closest to a key, closest first."""
    return sorted(peers, key=lambda peer: distance(key, peer))[:count]


class Lookup:
    """Where is ``target``? Ask each of ``next_peers()``, give the answers to ``receive``."""

    def __init__(self, target: PeerId, own: PeerId, servers: Iterable[PeerId]) -> None:
        self._target = target
        self._known = {peer: PeerRecord(peer, ()) for peer in servers}
        self._asked = {own, target}
        self.addresses: tuple[Multiaddr, ...] = ()

    @property
    def asked(self) -> int:
        """Peers asked so far."""
        return len(self._asked) - 2

    def next_peers(self) -> list[PeerRecord]:
        """Up to ``ALPHA`` peers to ask now, closest first; empty when there is nobody left to ask."""
        if self.addresses or self.asked >= MAX_ASKED:
            return []
        candidates = closest(self._target.data, (p for p in self._known if p not in self._asked), ALPHA)
        self._asked.update(candidates)
        return [self._known[peer] for peer in candidates]

    def receive(self, records: Iterable[PeerRecord]) -> None:
        """One peer's answer."""
        for record in records:
            if record.peer == self._target:
                self.addresses = tuple(dict.fromkeys((*self.addresses, *record.addresses)))
            elif record.addresses and len(self._known) < MAX_ASKED * K:
                self._known.setdefault(record.peer, record)

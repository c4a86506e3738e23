"""The peer routing of ``/ipfs/kad/1.0.0``: FIND_NODE, asked and answered.

Follows the libp2p kad-dht spec and what go-libp2p-kad-dht needs of a server. Records and providers
are not served: Hivemind keeps its own in its own DHT. Rule of the file: distances are XOR of sha256
of peer ids, and an answer carries at most ``K`` peers.
"""

from __future__ import annotations

import hashlib
from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

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
MAX_ASKED_NEAR = 100  # peers asked in one search for our neighbours: a liar can always name nearer ones
MAX_MESSAGE = 256 << 10  # bytes; 20 peers with 64 addresses take about 100 KiB
MAX_KEY = 128
BITS = 256  # of a position
MAX_NEAR_BITS = 14  # 16,384 keys on the average until one fits; a browser tries for two seconds
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


def position(key: bytes) -> int:
    """Where a key, or a peer by its id's bytes, stands among the 2^256 positions."""
    return int.from_bytes(hashlib.sha256(key).digest(), "big")


def distance(key: bytes, peer: PeerId) -> int:
    """How far a peer is from a key."""
    return position(key) ^ position(peer.data)


def shared_bits(one: int, other: int) -> int:
    """With how many equal bits two positions begin."""
    return BITS - (one ^ other).bit_length()


def near_bits(own: int, servers: Iterable[int]) -> int:
    """How many first bits of its position a peer should share with us, so that whoever looks for it asks us.

    A search ends when the ``K`` servers nearest to its target have been asked. Among those are all that share
    more bits with us than our ``K/2``-th nearest does, and we. 0 only where fewer than that are known: one
    answer of ``K`` that stays out would else leave tabs anywhere in a swarm of any size.
    """
    shared = sorted((shared_bits(own, server) for server in servers), reverse=True)
    return min(shared[K // 2 - 1] + 1, MAX_NEAR_BITS) if len(shared) >= K // 2 else 0


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


class Closest:
    """Who are the kad servers nearest to us? Ask each of ``next_peers()`` where we are; answers to
    ``receive``.

    Done when the ``K`` nearest that answer have answered, as in the Kademlia paper: they know us from then
    on, and we them.
    """

    def __init__(self, own: PeerId, servers: Iterable[PeerRecord]) -> None:
        self._own = own
        self._order: list[tuple[int, PeerId]] = []
        self._known: dict[PeerId, PeerRecord] = {}
        self._asked: set[PeerId] = set()
        self._silent: set[PeerId] = set()
        self._answered: dict[PeerId, PeerRecord] = {}
        self._learn(servers)

    @property
    def found(self) -> list[PeerRecord]:
        """Those that answered, nearest first."""
        return sorted(self._answered.values(), key=lambda record: distance(self._own.data, record.peer))

    def next_peers(self) -> list[PeerRecord]:
        """Up to ``ALPHA`` peers to ask now, nearest first; empty when there is nobody left to ask."""
        living = (peer for _, peer in self._order if peer not in self._silent)
        window = [peer for peer in islice(living, K) if peer not in self._asked]
        chosen = window[: min(ALPHA, MAX_ASKED_NEAR - len(self._asked))]
        self._asked.update(chosen)
        return [self._known[peer] for peer in chosen]

    def receive(self, asked: PeerRecord, records: Iterable[PeerRecord] | None) -> None:
        """One peer's answer; ``None`` if it gave none."""
        if records is None:
            self._silent.add(asked.peer)
            return
        self._answered[asked.peer] = asked
        self._learn(record for record in records if record.addresses)

    def _learn(self, records: Iterable[PeerRecord]) -> None:
        for record in records:
            if (
                record.peer != self._own
                and record.peer not in self._known
                and len(self._known) < MAX_ASKED_NEAR * K
            ):
                self._known[record.peer] = record
                insort(
                    self._order, (distance(self._own.data, record.peer), record.peer), key=lambda one: one[0]
                )

"""identify 1.0: what a peer tells of itself, when asked or (push) when it changes.

Follows the libp2p identify spec. Rule of the file: nothing here is believed about *who* the peer is
(noise proved that); addresses that cannot be parsed are dropped, not fatal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import KwaaiNetError
from ..wire import protobuf
from .multiaddr import Multiaddr

PROTOCOL = "/ipfs/id/1.0.0"
PUSH_PROTOCOL = "/ipfs/id/push/1.0.0"
PING_PROTOCOL = "/ipfs/ping/1.0.0"
PROTOCOL_VERSION = "ipfs/0.1.0"
PING_SIZE = 32

MAX_MESSAGE = 64 << 10  # go-libp2p takes 8 KiB; a peer with hundreds of protocols needs more
MAX_ADDRESSES = 64  # kept of what a peer lists
MAX_PROTOCOLS = 1024


@dataclass(frozen=True, slots=True)
class Identify(protobuf.Message):
    """The message; go-libp2p sends a signed record in a second one, which is not needed here."""

    public_key: bytes | None = protobuf.optional(1, protobuf.BYTES)
    listen_addresses: tuple[bytes, ...] = protobuf.many(2, protobuf.BYTES)
    protocols: tuple[str, ...] = protobuf.many(3, protobuf.STRING)
    observed_address: bytes | None = protobuf.optional(4, protobuf.BYTES)
    protocol_version: str | None = protobuf.optional(5, protobuf.STRING)
    agent_version: str | None = protobuf.optional(6, protobuf.STRING)


@dataclass(frozen=True, slots=True)
class Description:
    """What is kept of a peer's ``Identify``."""

    addresses: tuple[Multiaddr, ...] = ()
    protocols: frozenset[str] = frozenset()
    agent: str = ""
    observed: Multiaddr | None = None


def read(message: bytes) -> Description:
    """From an ``Identify`` message. Raises ``ProtocolError``."""
    identify = Identify.decode(message)
    observed = parse_addresses([identify.observed_address or b""])
    return Description(
        addresses=parse_addresses(identify.listen_addresses),
        protocols=frozenset(identify.protocols[:MAX_PROTOCOLS]),
        agent=(identify.agent_version or "")[:200],
        observed=observed[0] if observed else None,
    )


def parse_addresses(encoded: Iterable[bytes]) -> tuple[Multiaddr, ...]:
    """Those that can be parsed, without repetition, at most ``MAX_ADDRESSES``."""
    found: dict[Multiaddr, None] = {}
    for data in encoded:
        if len(found) == MAX_ADDRESSES:
            break
        try:
            found[Multiaddr.decode(data)] = None
        except KwaaiNetError:
            continue
    return tuple(found)

"""Open HOP: who may use the relay to reach a peer that holds no slot on it, where to, and how much.

p2pd accepts a STOP stream from anybody, so a relay can hand a circuit to any server it can dial: a
tab reaches servers that only listen on TCP. The circuit-v2 spec leaves such a policy to the relay.
Rule of the file: facts and times (seconds of any clock) come as arguments, every refusal is counted,
and what a source used up comes back with time, not with a new connection.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from ..types import PeerId
from .circuit import Status

MAX_SOURCES = 8192  # sources remembered; two for each slot of a relay
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Reason(StrEnum):
    """Why a circuit was refused."""

    NO_SLOT = "source holds no slot"
    NOT_ANNOUNCED = "target is not announced as a server"
    PRIVATE = "target is in a private range"
    SOURCE_CIRCUITS = "source has too many circuits"
    ALL_CIRCUITS = "all circuits are taken"
    ALL_ATTEMPTS = "all attempts are used up"
    UNREACHABLE = "target cannot be reached"

    @property
    def status(self) -> Status:
        """What the source is told. Without open HOP the first two would be told the same."""
        return _STATUS[self]


_STATUS = {
    Reason.NO_SLOT: Status.NO_RESERVATION,
    Reason.NOT_ANNOUNCED: Status.NO_RESERVATION,
    Reason.PRIVATE: Status.PERMISSION_DENIED,
    Reason.SOURCE_CIRCUITS: Status.RESOURCE_LIMIT_EXCEEDED,
    Reason.ALL_CIRCUITS: Status.RESOURCE_LIMIT_EXCEEDED,
    Reason.ALL_ATTEMPTS: Status.RESOURCE_LIMIT_EXCEEDED,
    Reason.UNREACHABLE: Status.CONNECTION_FAILED,
}


@dataclass(frozen=True, slots=True)
class Quotas:
    """What open HOP may cost. A minute's worth of attempts or bytes may be used at once."""

    source_circuits: int = 32  # a chain of some hops, each reached by a client and by a server
    all_circuits: int = 1024  # a quarter of the relay's
    all_attempts: float = 1200.0  # a minute; how many of one peer or address ``admission`` says
    source_bytes: float = 512e6  # a minute, both directions; a prefill of 8192 x 8192 float32 is 268 MB


class TokenBucket:
    """An allowance that refills evenly, and holds ``burst`` at most: a minute's if not told otherwise."""

    def __init__(self, per_minute: float, *, burst: float | None = None) -> None:
        self._per_minute = per_minute
        self._most = self._level = per_minute if burst is None else burst
        self._at: float | None = None

    def level(self, now: float) -> float:
        """What is left; below 0 if more was taken than there was."""
        if self._at is not None:
            self._level = min(self._most, self._level + (now - self._at) * self._per_minute / 60)
        self._at = now
        return self._level

    def take(self, amount: float, now: float) -> float:
        """Take it even if it is not there; returns the seconds until it would have been."""
        self._level = self.level(now) - amount
        return max(0.0, -self._level * 60 / self._per_minute)

    def is_full(self, now: float) -> bool:
        """Whether nothing is owed: forgetting the bucket gives nothing away."""
        return self.level(now) >= self._most


class _Source:
    def __init__(self, quotas: Quotas) -> None:
        self.circuits = 0
        self.bytes = TokenBucket(quotas.source_bytes)

    def is_idle(self, now: float) -> bool:
        return not self.circuits and self.bytes.is_full(now)


class Ledger:
    """Who has used how much. Every admitted circuit must be released once."""

    def __init__(self, quotas: Quotas | None = None) -> None:
        self.quotas = quotas or Quotas()
        self.circuits = 0
        self.carried = 0
        self.refused: Counter[Reason] = Counter()
        self._attempts = TokenBucket(self.quotas.all_attempts)
        self._sources: dict[PeerId, _Source] = {}

    def admit(self, source: PeerId, now: float) -> Reason | None:
        """Count an attempt and hold a place for its circuit; or why there is none."""
        quotas, used = self.quotas, self._source(source, now)
        if used is None or self._attempts.level(now) < 1:
            return Reason.ALL_ATTEMPTS
        self._attempts.take(1, now)
        if used.circuits >= quotas.source_circuits:
            return Reason.SOURCE_CIRCUITS
        if self.circuits >= quotas.all_circuits:
            return Reason.ALL_CIRCUITS
        used.circuits += 1
        self.circuits += 1
        return None

    def release(self, source: PeerId) -> None:
        """The circuit has ended, or never came to be."""
        self._sources[source].circuits -= 1
        self.circuits -= 1

    def carry(self, source: PeerId, size: int, now: float) -> float:
        """Count bytes of a circuit that is held; returns the seconds that the next ones should wait."""
        self.carried += size
        return self._sources[source].bytes.take(size, now)

    def _source(self, source: PeerId, now: float) -> _Source | None:
        if source not in self._sources and len(self._sources) >= MAX_SOURCES:
            self._sources = {peer: used for peer, used in self._sources.items() if not used.is_idle(now)}
            if len(self._sources) >= MAX_SOURCES:
                return None
        return self._sources.setdefault(source, _Source(self.quotas))


def is_public(host: str) -> bool:
    """Whether an IP address (as text) is one of the internet: no private, loopback, link-local,
    shared, multicast or reserved one, nor such a one inside an IPv6 address. A name is not."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if inside is None and address in _NAT64:
            inside = ipaddress.IPv4Address(address.packed[-4:])
        if inside is not None:
            return is_public(str(inside))
        if address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast

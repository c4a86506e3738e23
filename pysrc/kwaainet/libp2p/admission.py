"""How much of a relay one peer, one address and one subnet may hold, and at what pace bytes are carried.

As go-libp2p's resource manager. An *address* is an IPv4 address or an IPv6 /64, which is what one customer
of a provider has at least; a *subnet* is a /24 or a /48. Loopback is no address: it is this machine, or
a proxy on it. Rule of the file: pure; ``now`` (monotonic seconds) is an argument; every refusal is counted by
its reason. An address is kept while something is held from it and for at most a minute more, in memory only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from enum import IntEnum, StrEnum
from typing import Any, TypeAlias

from ..errors import ConfigError
from ..types import PeerId
from .bans import Rules, parse_host
from .open_hop import TokenBucket

MAX_BUCKETS = 8192  # paces remembered; of more, the one seen longest ago is forgotten
_SCOPES = ("peer", "address", "subnet")
_FEW = 64  # that are not worth a sweep
_ADDRESS, _SUBNET = {4: 4, 6: 8}, {4: 3, 6: 6}  # leading bytes, by version; no two are alike


class Kind(StrEnum):
    """What is held."""

    CONNECTION = "connections"
    STREAM = "streams"
    RESERVATION = "reservations"
    CIRCUIT = "circuits"
    VISIT = "visits"  # sockets of the page's site: an idle one gives way
    OPENING = "openings"  # sockets that have not said yet what they want; whose they are nobody knows


class Pace(StrEnum):
    """What may be done so often a minute."""

    ARRIVAL = "arrivals"  # new connections
    DIAL = "dials"  # ways out to servers that hold no slot here
    TARGET = "targets"  # the same, counted for where they lead: so that nobody is flooded from here


class Priority(IntEnum):
    """Whose bytes wait first where all share one allowance."""

    OPEN_HOP = 0  # to servers elsewhere
    TAB = 1  # to and from those who hold a slot here


@dataclass(frozen=True, slots=True)
class Scope:
    """What one peer, one address and one subnet may have."""

    peer: int
    address: int
    subnet: int

    @classmethod
    def parse(cls, text: str) -> Scope:
        """``PEER,ADDRESS,SUBNET``, each at least 1 and none more than the next. ``ConfigError`` otherwise."""
        parts = text.split(",")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
            raise ConfigError(f"{text!r:.80} is not PEER,ADDRESS,SUBNET: three whole numbers")
        peer, address, subnet = map(int, parts)
        if not 1 <= peer <= address <= subnet:
            raise ConfigError(f"{text!r:.80}: a peer may have 1 at least, and none more than its subnet")
        return cls(peer, address, subnet)

    def __str__(self) -> str:
        return f"{self.peer},{self.address},{self.subnet}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each kind what may be held at once; of arrivals and dials how many a minute; of bytes how many a
    second (0: as many as there are). A school behind one address has hundreds of tabs."""

    connections: Scope = Scope(16, 512, 2048)
    streams: Scope = Scope(1024, 2048, 4096)
    reservations: Scope = Scope(1, 512, 2048)
    circuits: Scope = Scope(1024, 1536, 2048)
    visits: Scope = Scope(384, 384, 768)  # one address leaves room in ``open_files.VISITORS`` for others
    openings: Scope = Scope(128, 128, 192)  # one address leaves room in ``doors.MAX_OPENING`` for others
    arrivals: Scope = Scope(240, 1200, 4800)
    dials: Scope = Scope(60, 240, 600)  # a client that fails over asks for some at once
    targets: Scope = Scope(60, 60, 240)  # a data centre has many servers in one subnet
    bandwidth: int = 0
    peer_bandwidth: int = 0
    address_bandwidth: int = 0
    subnet_bandwidth: int = 0

    def changed(self, name: str, text: str) -> Limits:
        """With one of them as given. ``ConfigError`` names what there is."""
        known: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        if name not in known:
            raise ConfigError(f"{name!r:.40} is no limit; there are {', '.join(known)}")
        if isinstance(known[name], Scope):
            known[name] = Scope.parse(text)
        elif text.isascii() and text.isdigit() and len(text) < 16:
            known[name] = int(text)
        else:
            raise ConfigError(f"{name} is {text!r:.40}; give bytes a second, 0 for no limit")
        return Limits(**known)

    @property
    def has_bandwidth(self) -> bool:
        """Whether there is any limit on bytes."""
        return bool(self.bandwidth or any(getattr(self, f"{scope}_bandwidth") for scope in _SCOPES))

    def describe(self) -> dict[str, str]:
        """Each by its name, as ``changed`` takes it."""
        return {field.name: str(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asks: a peer, and from where. What is ``None`` is not known, or not counted."""

    peer: PeerId | None = None
    address: bytes | None = None  # 4 of IPv4, 8 of IPv6
    subnet: bytes | None = None  # 3 and 6
    keys: tuple[tuple[str, PeerId | bytes], ...] = field(init=False, repr=False, compare=False)
    # (the name of a scope, by what it is counted): asked for with every stream

    def __post_init__(self) -> None:
        named = zip(_SCOPES, (self.peer, self.address, self.subnet), strict=True)
        object.__setattr__(self, "keys", tuple(pair for pair in named if pair[1] is not None))


Key: TypeAlias = tuple[str, str, PeerId | bytes]  # of what, by which scope, whose


class Admission:
    """Counts and decides. What ``take`` grants is given back by ``release``, with the same origin."""

    def __init__(self, limits: Limits | None = None, rules: Rules | None = None) -> None:
        self.limits = limits or Limits()
        self.rules = rules if rules is not None else Rules()
        self.refused: Counter[str] = Counter()
        self._held: Counter[Key] = Counter()
        self._paces: dict[Key, TokenBucket] = {}
        self._bytes: dict[Key, TokenBucket] = {}
        self._all_bytes: TokenBucket | None = None
        self._sweep_at = _FEW
        self.paces_bytes = self.limits.has_bandwidth  # asked for every read of every circuit

    def origin(self, peer: PeerId | None, host: str | None) -> Origin:
        """Of a peer at an IP address. Loopback, names and what is allowed have no address that counts."""
        at = parse_host(host)
        if at is None or at.is_loopback or at.is_unspecified or self.rules.allows(peer, at):
            return Origin(peer)
        return Origin(peer, at.packed[: _ADDRESS[at.version]], at.packed[: _SUBNET[at.version]])

    def known(self, origin: Origin, peer: PeerId) -> Origin:
        """The same, now that its peer has proved who it is; who is allowed has no address that counts."""
        return Origin(peer) if self.rules.allows(peer, None) else Origin(peer, origin.address, origin.subnet)

    def refusal(self, peer: PeerId | None, host: str | None, unix: float) -> str | None:
        """Whether the operator's rules keep it out, and by which; counted. ``unix``: seconds of bans."""
        reason = self.rules.refusal(peer, parse_host(host), unix) if self.rules else None
        if reason is not None:
            self.refused[reason] += 1
        return reason

    # --- what is held at once ---------------------------------------------------------------------

    def take(self, kind: Kind, origin: Origin) -> str | None:
        """One more, or why not: ``too many streams of one subnet``, counted."""
        if (full := self.full(kind, origin)) is not None:
            return self._refuse(f"too many {kind} of one {full[0]}")
        for scope, key in origin.keys:
            self._held[kind, scope, key] += 1
        return None

    def full(self, kind: Kind, origin: Origin) -> tuple[str, PeerId | bytes] | None:
        """The first of its ``keys`` that may hold no more."""
        limit: Scope = getattr(self.limits, kind)
        for scope, key in origin.keys:
            if self._held.get((kind, scope, key), 0) >= getattr(limit, scope):
                return scope, key
        return None

    def release(self, kind: Kind, origin: Origin) -> None:
        """What was taken is free again."""
        for scope, key in origin.keys:
            self._held[kind, scope, key] -= 1
            if self._held[kind, scope, key] <= 0:
                del self._held[kind, scope, key]

    def held(self, kind: Kind, peer: PeerId) -> int:
        """How many a peer holds now."""
        return self._held.get((kind, "peer", peer), 0)

    def most(self) -> dict[str, dict[str, int]]:
        """By kind and scope: what the greediest holds, for the operator; names nobody."""
        found: dict[str, dict[str, int]] = {kind.value: {} for kind in Kind}
        for (kind, scope, _), count in self._held.items():
            found[Kind(kind).value][scope] = max(count, found[Kind(kind).value].get(scope, 0))
        return found

    # --- what is done so often --------------------------------------------------------------------

    def hurry(self, pace: Pace, origin: Origin, now: float) -> str | None:
        """One more now, or why not: ``too many dials of an address in a minute``, counted."""
        limit: Scope = getattr(self.limits, pace)
        buckets = []
        for scope, key in origin.keys:
            bucket = self._bucket(self._paces, (pace, scope, key), float(getattr(limit, scope)), now)
            if bucket.level(now) < 1:
                return self._refuse(f"too many {pace} of one {scope} a minute")
            buckets.append(bucket)
        for bucket in buckets:
            bucket.take(1, now)
        return None

    # --- bytes ------------------------------------------------------------------------------------

    def carry(self, origin: Origin, size: int, priority: Priority, now: float) -> float:
        """Count bytes carried; returns the seconds that the next ones of this origin should wait.

        One allowance is of all: the last half of it is for tabs, so that ways out wait first.
        """
        limits, wait = self.limits, 0.0
        for scope, key in origin.keys:
            if rate := getattr(limits, f"{scope}_bandwidth"):
                bucket = self._bucket(self._bytes, ("bytes", scope, key), rate * 60.0, now, burst=rate * 1.0)
                wait = max(wait, bucket.take(size, now))
        if limits.bandwidth:
            if self._all_bytes is None:
                self._all_bytes = TokenBucket(limits.bandwidth * 60.0, burst=limits.bandwidth * 1.0)
            wait = max(wait, self._all_bytes.take(size, now))
            if priority == Priority.OPEN_HOP:
                short = limits.bandwidth / 2 - self._all_bytes.level(now)
                wait = max(wait, short / limits.bandwidth)
        return wait

    def change(self, limits: Limits) -> None:
        """From now on; what is held already stays."""
        self.limits = limits
        self._paces.clear()
        self._bytes.clear()
        self._all_bytes = None
        self.paces_bytes = limits.has_bandwidth

    # --- inside -----------------------------------------------------------------------------------

    def _refuse(self, reason: str) -> str:
        self.refused[reason] += 1
        return reason

    def _bucket(
        self,
        buckets: dict[Key, TokenBucket],
        key: Key,
        per_minute: float,
        now: float,
        burst: float | None = None,
    ) -> TokenBucket:
        if key not in buckets:
            if len(self._paces) + len(self._bytes) >= self._sweep_at:
                self.forget(now)
            buckets[key] = TokenBucket(per_minute, burst=burst)
        return buckets[key]

    def forget(self, now: float) -> None:
        """Drop the paces that owe nothing, and with them the addresses; the host calls it every minute."""
        for buckets in (self._paces, self._bytes):
            for key in [key for key, bucket in buckets.items() if bucket.is_full(now)]:
                del buckets[key]
            if len(buckets) >= MAX_BUCKETS // 2:  # what is held is still counted for who is forgotten
                for key in list(buckets)[: len(buckets) // 2]:
                    del buckets[key]
        self._sweep_at = min(max(_FEW, 2 * (len(self._paces) + len(self._bytes))), MAX_BUCKETS)

    def __len__(self) -> int:
        """Peers, addresses and subnets remembered."""
        return len({key[2] for key in (*self._held, *self._paces, *self._bytes)})

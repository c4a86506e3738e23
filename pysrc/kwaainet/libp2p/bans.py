"""Whom a relay lets in: what its operator denied, banned for a time, or allowed.

As go-libp2p's connection gater, with reasons and expiry. Rule of the file: a rule names a peer id, an IP
address or a subnet, nothing else is kept; times are unix seconds and come as arguments. What is allowed wins
over what is banned or denied, so that one friend behind a banned subnet can be let in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, TypeAlias

from ..errors import CapacityError, ConfigError, InputError
from ..types import PeerId

MAX_RULES = 4096  # bans; of more, those that have expired make room
MAX_REASON = 200  # characters
MAX_SECONDS = 10 * 365 * 86400  # of a ban
MAX_BYTES = 4 << 20  # of a file of bans
Subnet: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address
Subject: TypeAlias = PeerId | Subnet


def parse_subject(text: str) -> Subject:
    """A peer id, an IP address or a subnet (``10.1.0.0/16``, ``2001:db8::/48``), or ``ConfigError``."""
    try:
        return _plain(ip_network(text))
    except ValueError as error:
        if "/" in text or ":" in text:
            raise ConfigError(f"{text!r:.80} is no subnet: {error}") from None
    try:
        return PeerId.parse(text)
    except InputError:
        raise ConfigError(f"{text!r:.80} is neither a peer id, an IP address nor a subnet") from None


def parse_host(host: str | None) -> Address | None:
    """An IP address; IPv4 in IPv6 is IPv4. ``None`` for what is no address."""
    try:
        address = ip_address(host.partition("%")[0]) if host else None
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _plain(network: Subnet) -> Subnet:
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        inside = IPv6Address(network.network_address).ipv4_mapped
        if inside is not None:
            return IPv4Network((inside, network.prefixlen - 96))
    return network


@dataclass(frozen=True, slots=True)
class Ban:
    """One rule: since and until when (unix seconds; ``None``: for good), and why."""

    subject: Subject
    reason: str
    since: float
    until: float | None = None

    def holds(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.until is None or now < self.until

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "subject": str(self.subject),
            "reason": self.reason,
            "since": self.since,
            "until": self.until,
        }


class _Subnets:
    """Subnets, found by an address in them: one look for each length of prefix that there is."""

    def __init__(self) -> None:
        self._lengths: dict[tuple[int, int], set[int]] = {}

    def add(self, net: Subnet) -> None:
        self._lengths.setdefault((net.version, net.prefixlen), set()).add(
            _head(net.network_address, net.prefixlen)
        )

    def holding(self, one: Address) -> Iterable[Subnet]:
        for (version, length), heads in self._lengths.items():
            if version == one.version and _head(one, length) in heads:
                yield ip_network((int(one), length), strict=False)


def _head(one: Address, length: int) -> int:
    return int(one) >> (one.max_prefixlen - length)


class Rules:
    """What the operator said: ``allow`` and ``deny`` are settings and stand for good, bans come and go.

    With ``allow_only`` nobody else is let in.
    """

    def __init__(
        self, allow: Iterable[str] = (), deny: Iterable[str] = (), *, allow_only: bool = False
    ) -> None:
        self._allowed = _Listed(parse_subject(text) for text in allow)
        self._denied = _Listed(parse_subject(text) for text in deny)
        self.allow_only = allow_only
        self._bans: dict[Subject, Ban] = {}
        self._banned = _Listed(())
        if allow_only and not self._allowed:
            raise ConfigError("--allow-only without --allow would let nobody in; name who is allowed")

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._allowed or self._denied or self._banned)

    def allows(self, peer: PeerId | None, host: Address | None) -> bool:
        """Whether the operator named it as allowed; limits by address do not hold for it, either."""
        return any(True for _ in self._allowed.naming(peer, host))

    def refusal(self, peer: PeerId | None, host: Address | None, now: float) -> str | None:
        """Why it is not let in: ``banned``, ``denied`` or ``not allowed``, or ``None``.

        A peer that is not known yet (``None``) is asked for again once it is.
        """
        if self.allows(peer, host):
            return None
        if any(self._bans[subject].holds(now) for subject in self._banned.naming(peer, host)):
            return "banned"
        if any(True for _ in self._denied.naming(peer, host)):
            return "denied"
        return "not allowed" if self.allow_only and peer is not None else None

    def ban(self, subject: str, reason: str, seconds: float | None, now: float) -> Ban:
        """From now on, for so long. ``ConfigError``: it cannot be; ``CapacityError``: there are too many."""
        if seconds is not None and not 0 < seconds <= MAX_SECONDS:
            raise ConfigError(f"a ban of {seconds:g} s cannot be; give 1 to {MAX_SECONDS}, or none for good")
        if len(reason) > MAX_REASON or not reason.isprintable():
            raise ConfigError(f"a reason is one line of at most {MAX_REASON} characters")
        ban = Ban(parse_subject(subject), reason, now, None if seconds is None else now + seconds)
        self._add(ban, now)
        return ban

    def _add(self, ban: Ban, now: float) -> None:
        if ban.subject not in self._bans and len(self._bans) >= MAX_RULES:
            self._replace([one for one in self._bans.values() if one.holds(now)])
            if len(self._bans) >= MAX_RULES:
                raise CapacityError(f"{MAX_RULES} bans are in force already; ban a subnet, or unban some")
        self._bans[ban.subject] = ban
        self._banned.add(ban.subject)

    def unban(self, subject: str) -> bool:
        """Whether there was such a ban, which there is no more."""
        named = parse_subject(subject)
        found = named in self._bans
        self._replace([one for one in self._bans.values() if one.subject != named])
        return found

    def _replace(self, bans: list[Ban]) -> None:
        self._bans = {one.subject: one for one in bans}
        self._banned = _Listed(self._bans)

    def bans(self, now: float) -> list[Ban]:
        """Those in force."""
        return [ban for ban in self._bans.values() if ban.holds(now)]

    def encode(self, now: float) -> str:
        """All bans in force, for a file."""
        return json.dumps([ban.describe() for ban in self.bans(now)], indent=1) + "\n"

    def load(self, data: bytes, now: float) -> None:
        """Bans as ``encode`` gave them, instead of those there were. ``InputError`` for anything else."""
        try:
            values = json.loads(data)
            bans = [_read(value) for value in values[:MAX_RULES]]
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, ConfigError) as error:
            raise InputError(f"these are no bans: {error!r:.200}") from None
        self._replace([ban for ban in bans if ban.holds(now)])


def _read(value: dict[str, Any]) -> Ban:
    until = value["until"]
    reason, subject = value["reason"], value["subject"]
    if not isinstance(reason, str) or not isinstance(subject, str):
        raise TypeError(f"{value!r:.80} is no ban")
    since = float(value["since"])
    return Ban(parse_subject(subject), reason[:MAX_REASON], since, None if until is None else float(until))


class _Listed:
    """Subjects, found by a peer or an address."""

    def __init__(self, subjects: Iterable[Subject]) -> None:
        self._peers: set[PeerId] = set()
        self._subnets = _Subnets()
        self._some = False
        for subject in subjects:
            self.add(subject)

    def __bool__(self) -> bool:
        return self._some

    def add(self, subject: Subject) -> None:
        self._some = True
        if isinstance(subject, PeerId):
            self._peers.add(subject)
        else:
            self._subnets.add(subject)

    def naming(self, peer: PeerId | None, host: Address | None) -> Iterable[Subject]:
        if peer is not None and peer in self._peers:
            yield peer
        if host is not None:
            yield from self._subnets.holding(host)

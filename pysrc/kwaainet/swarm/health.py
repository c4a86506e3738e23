"""Which servers a client leaves alone for a while, and why.

Follows Petals' use of Hivemind's ``Blacklist`` (client/routing/sequence_manager.py, on_request_failure):
every failure in a row doubles the ban, an answered request forgives. Unlike there, the reason counts: a
server that was away is back as soon as it answers a ping, one that computed nonsense is not. Rule of the
file: it only counts and times; ``now`` is an argument, in seconds of any steady clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from ..types import PeerId

BACK_OFF = 2.0
MAX_BAN = 600.0  # seconds
MAX_PEERS = 4096  # remembered; the one let go earliest gives way


class Reason(Enum):
    """Why a server is banned; the value is the first ban in seconds."""

    GONE = 5.0  # its connection broke or it could not be reached: a page's reload takes as long
    UNAVAILABLE = 10.0  # it answers, but not this: it leaves, loads, is full, or serves no blocks now
    SILENT = 15.0  # connected, but no answer in time: Petals' ban_timeout
    FAULTY = 120.0  # it answered what cannot be right


@dataclass(frozen=True, slots=True)
class Ban:
    """``failures`` in a row, the last for ``reason``, told in ``text``."""

    reason: Reason
    text: str
    failures: int
    until: float


class PeerHealth:
    """The bans of one client."""

    def __init__(self) -> None:
        self._bans: dict[PeerId, Ban] = {}

    def fail(self, peer: PeerId, reason: Reason, text: str, now: float) -> Ban:
        """The peer failed. Failures that end while it is banned count once; a worse reason replaces."""
        known = self._bans.get(peer)
        if known is not None and now < known.until and reason.value <= known.reason.value:
            return known
        failures = known.failures if known else 0
        seconds = min(reason.value * BACK_OFF**failures, MAX_BAN)
        ban = self._bans[peer] = Ban(reason, text, failures + 1, now + seconds)
        if len(self._bans) > MAX_PEERS:
            del self._bans[min(self._bans, key=lambda peer: self._bans[peer].until)]
        return ban

    def succeed(self, peer: PeerId) -> None:
        """The peer answered a request as it should: everything is forgiven."""
        self._bans.pop(peer, None)

    def answers(self, peer: PeerId, now: float) -> None:
        """The peer answered a ping: it is back, though what it failed at before may fail again."""
        ban = self._bans.get(peer)
        if ban is not None and ban.reason is Reason.GONE and now < ban.until:
            self._bans[peer] = Ban(ban.reason, ban.text, ban.failures, now)

    def is_banned(self, peer: PeerId, now: float) -> bool:
        ban = self._bans.get(peer)
        return ban is not None and now < ban.until

    def bans(self, now: float) -> Mapping[PeerId, Ban]:
        """Those in force."""
        return {peer: ban for peer, ban in self._bans.items() if now < ban.until}

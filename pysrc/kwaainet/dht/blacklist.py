"""Peers that did not answer, left alone for a while: 5 s, then 10, 20 and so on.

Follows ``Blacklist`` in ``hivemind/dht/node.py``. Rule of the file: it only counts and times; an
answer clears a peer at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..types import PeerId

FIRST_BAN = 5.0  # seconds, as in Hivemind
BACK_OFF = 2.0
MAX_BAN = 600.0  # seconds; Hivemind has no bound, and forgets a peer that was away for a night
MAX_PEERS = 4096  # remembered; the earliest to be let go gives way


@dataclass(slots=True)
class _Ban:
    failures: int
    until: float


class Blacklist:
    """``now`` is unix seconds."""

    def __init__(self) -> None:
        self._bans: dict[PeerId, _Ban] = {}

    def is_banned(self, peer: PeerId, now: float) -> bool:
        ban = self._bans.get(peer)
        return ban is not None and 0 < ban.until - now <= MAX_BAN  # more: the clock was set back

    def fail(self, peer: PeerId, now: float) -> int:
        """The peer did not answer; returns how often in a row it has not.

        Failures of calls made side by side count once: those that end while it is banned.
        """
        ban = self._bans.setdefault(peer, _Ban(0, now))
        if not self.is_banned(peer, now):
            ban.until = now + min(FIRST_BAN * BACK_OFF**ban.failures, MAX_BAN)
            ban.failures += 1
        if len(self._bans) > MAX_PEERS:
            del self._bans[min(self._bans, key=lambda peer: self._bans[peer].until)]
        return ban.failures

    def succeed(self, peer: PeerId) -> None:
        """The peer answered."""
        self._bans.pop(peer, None)

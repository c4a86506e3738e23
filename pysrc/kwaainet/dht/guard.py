"""What a node lets others store, beyond what its storage has room for: in whose name, of what shape, how
often.

Hivemind's records are unsigned and its nodes store what anybody sends. Here a caller is authenticated
(noise), and stock servers store their own records themselves, so that a word under a peer's own subkey is
known to be its own if it comes from that peer, or from us for a peer that is connected to us. Such a word
holds against everybody else's until it expires, and it replaces what others said in the peer's name whatever
the dates, so that nobody can pin a false record by dating it far ahead. What comes from a third party and
contradicts nobody is kept: that is how records reach a newcomer, and how another relay announces its tabs.

Rule of the file: what a stock peer sends passes; each refusal is counted under one of ``REASONS``.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TypeAlias

from ..types import PeerId
from .key import DHTID
from .record import Subkey, Value
from .storage import MAX_LIFETIME, MAX_VALUE_SIZE

MAX_BURST = 8192.0  # entries of one peer at once; a stock node hands all it has, up to 4096, to a newcomer
PER_SECOND = 64.0  # entries of one peer in the long run; a server of 126 blocks stores as many in 120 s
MAX_SENDERS = 4096  # peers whose entries are counted; who was silent longest is forgotten, hence full again
MAX_OWNED = 65_536  # entries known to be their subject's own; the oldest are taken for anybody's again

REASONS = ("rate", "size", "expiry", "shape", "not its own")

Shape: TypeAlias = Callable[
    [Subkey | None, bytes], bool
]  # (subkey or None, msgpack) -> whether it may stand there


def any_shape(key: DHTID) -> Shape | None:
    """No key is known to hold anything in particular."""
    return None


def nobody(subkey: Subkey) -> bool:
    """Nobody is connected to us."""
    return False


class Guard:
    """``shape_of`` gives what a key's records must look like; ``speaks_for`` says whether we announce the
    peer that a subkey names. ``now`` is unix seconds."""

    def __init__(
        self,
        shape_of: Callable[[DHTID], Shape | None] = any_shape,
        speaks_for: Callable[[Subkey], bool] = nobody,
    ) -> None:
        self.shape_of = shape_of
        self.speaks_for = speaks_for
        self.refused: Counter[str] = Counter()
        self._left: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()  # entries, and when that was
        self._owned: OrderedDict[tuple[DHTID, Subkey], tuple[float, bool]] = (
            OrderedDict()
        )  # until when, by us

    def admits(
        self, sender: PeerId | None, key: DHTID, subkey: Subkey | None, value: Value, now: float
    ) -> bool:
        """Whether ``sender`` may store this; if not, it is counted why. ``None`` are we: bound to shapes
        only."""
        reason = self._objection(sender, value, now) if sender is not None else None
        reason = reason or self._contradiction(sender, key, subkey, value, now)
        if reason is not None:
            self.refused[reason] += 1
        return reason is None

    def is_own(self, sender: PeerId | None, subkey: Subkey | None) -> bool:
        """Whether this is the word of the very peer that the subkey names, or ours for it."""
        if sender is None:
            return subkey is not None and self.speaks_for(subkey)
        return subkey == str(sender)

    def displaces(self, sender: PeerId | None, key: DHTID, subkey: Subkey, now: float) -> bool:
        """Whether what stands there gives way whatever its date: it is hearsay, and this is not."""
        return self.is_own(sender, subkey) and self._owned_until(key, subkey) < now

    def stored(
        self, sender: PeerId | None, key: DHTID, subkey: Subkey | None, value: Value, now: float
    ) -> None:
        """It was kept: remember whose word it is."""
        if subkey is None or not self.is_own(sender, subkey):
            return
        self._owned[key, subkey] = (value.expiration, sender is None)
        self._owned.move_to_end((key, subkey))
        while len(self._owned) > MAX_OWNED:
            self._owned.popitem(last=False)

    def expire(self, now: float) -> None:
        """Forget whose words those were that have expired."""
        self._owned = OrderedDict((one, until) for one, until in self._owned.items() if until[0] >= now)

    def _objection(self, sender: PeerId, value: Value, now: float) -> str | None:
        if not self._has_left(sender, now):
            return "rate"
        if len(value.data) > MAX_VALUE_SIZE:
            return "size"
        if not (math.isfinite(value.expiration) and now <= value.expiration <= now + MAX_LIFETIME):
            return "expiry"
        return None

    def _contradiction(
        self, sender: PeerId | None, key: DHTID, subkey: Subkey | None, value: Value, now: float
    ) -> str | None:
        shape = self.shape_of(key)
        if shape is not None and not shape(subkey, value.data):
            return "shape"
        if sender is not None and subkey is not None and not self.is_own(sender, subkey):
            until = self._owned_until(key, subkey)
            if now <= until < value.expiration:  # what is no later changes nothing: a copy of the same word
                return "not its own"
        return None

    def _owned_until(self, key: DHTID, subkey: Subkey) -> float:
        until, by_us = self._owned.get((key, subkey), (-math.inf, False))
        return -math.inf if by_us and not self.speaks_for(subkey) else until

    def _has_left(self, sender: PeerId, now: float) -> bool:
        left, since = self._left.get(sender, (MAX_BURST, now))
        left = min(left + max(now - since, 0.0) * PER_SECOND, MAX_BURST)
        self._left[sender] = (max(left - 1, 0.0), now)
        self._left.move_to_end(sender)
        if len(self._left) > MAX_SENDERS:
            self._left.popitem(last=False)
        return left >= 1

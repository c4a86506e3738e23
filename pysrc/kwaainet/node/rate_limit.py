"""How often each peer may ask for something: so many times within any minute.

Rule of the file: what is counted is bounded too; a peer too many is refused, never one that was there. Where
a clock is set back, counting begins anew: times to come are no reason to refuse anybody.
"""

from __future__ import annotations

from collections import deque

from ..errors import CapacityError, LimitExceeded
from ..types import PeerId

WINDOW = 60.0  # seconds
_FEW = 64  # peers that are not worth a sweep
SLOW_DOWN = "slow down"  # in the words of a refusal that time mends


class RateLimit:
    """``per_minute`` requests for ``what`` of each of at most ``max_peers`` peers."""

    def __init__(self, what: str, per_minute: int, max_peers: int) -> None:
        self._what, self._per_minute, self._max_peers = what, per_minute, max_peers
        self._asked: dict[PeerId, deque[float]] = {}
        self._sweep_at = _FEW  # peers

    def count(self, peer: PeerId, now: float) -> None:
        """One more at ``now`` (s). ``LimitExceeded``: it hurries; ``CapacityError``: a peer too many."""
        if peer not in self._asked and len(self._asked) >= min(self._sweep_at, self._max_peers):
            self._asked = {
                one: times for one, times in self._asked.items() if now - WINDOW < times[-1] <= now
            }
            self._sweep_at = max(_FEW, 2 * len(self._asked))
            if len(self._asked) >= self._max_peers:
                raise CapacityError(f"{self._max_peers} peers ask for {self._what} here already; ask another")
        times = self._asked.setdefault(peer, deque())
        while times and not now - WINDOW < times[0] <= now:
            times.popleft()
        if len(times) >= self._per_minute:
            raise LimitExceeded(f"more than {self._per_minute} {self._what} within a minute; {SLOW_DOWN}")
        times.append(now)

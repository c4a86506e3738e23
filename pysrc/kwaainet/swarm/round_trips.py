"""Round trips to servers, smoothed over measurements.

Follows Petals' ``PingAggregator`` (utils/ping.py). Rule of the file: arithmetic on what was measured;
``now`` is an argument, in seconds of any steady clock.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..types import PeerId

SMOOTHING = 0.2  # weight of the newest measurement: Petals' ema_alpha
EXPIRATION = 300.0  # seconds after which a measurement says nothing any more
MAX_PEERS = 4096


class RoundTrips:
    """Seconds to each peer and back."""

    def __init__(self) -> None:
        self._known: dict[PeerId, tuple[float, float]] = {}  # seconds, when measured last; oldest first

    def add(self, peer: PeerId, seconds: float, now: float) -> None:
        """One measurement."""
        before = self.get(peer, now)
        self._known.pop(peer, None)
        if before is not None:
            seconds = SMOOTHING * seconds + (1 - SMOOTHING) * before
        self._known[peer] = (seconds, now)
        if len(self._known) > MAX_PEERS:
            del self._known[next(iter(self._known))]

    def get(self, peer: PeerId, now: float) -> float | None:
        """Seconds, or ``None`` for a peer not measured lately."""
        seconds, measured = self._known.get(peer, (0.0, float("-inf")))
        return seconds if now - measured < EXPIRATION else None

    def longest_unmeasured(self, peers: Iterable[PeerId], count: int) -> list[PeerId]:
        """Up to ``count`` of ``peers`` to measure next: those never measured first, then the oldest."""
        order = {peer: place for place, peer in enumerate(self._known)}
        return sorted(dict.fromkeys(peers), key=lambda peer: order.get(peer, -1))[:count]

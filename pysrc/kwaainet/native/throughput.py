"""How much a relay carries and since when, in the words of Syncthing's relays.

Follows the ``/status`` of strelaysrv (github.com/syncthing/syncthing, cmd/strelaysrv): whatever watches those
can watch this; kbps are thousands of bits a second, over the last 10 s to the last hour. Rule of the file:
pure; ``now`` (seconds) and the bytes so far are arguments.
"""

from __future__ import annotations

from collections import deque
from typing import Any

PERIOD = 10.0  # seconds between samples
WINDOWS = (10, 60, 300, 900, 1800, 3600)  # seconds
_KEPT = 1 + int(WINDOWS[-1] / PERIOD)


class Throughput:
    """Counts from ``now`` on; ``sample`` every ``PERIOD``."""

    def __init__(self, now: float, unix: float) -> None:
        self._began, self._unix = now, unix
        self._samples: deque[tuple[float, int]] = deque([(now, 0)], maxlen=_KEPT)

    def sample(self, now: float, carried: int) -> None:
        """So much was carried by now."""
        self._samples.append((now, carried))

    def kbps(self, now: float, carried: int) -> list[int]:
        """Over each of ``WINDOWS``, or since it began if that is shorter."""
        return [self._rate(now, carried, window) for window in WINDOWS]

    def _rate(self, now: float, carried: int, window: int) -> int:
        since, before = next(
            ((at, size) for at, size in self._samples if at >= now - window), self._samples[-1]
        )
        return int((carried - before) * 8 / 1000 / max(now - since, 1.0))

    def describe(self, now: float, carried: int) -> dict[str, Any]:
        """As strelaysrv names them."""
        return {
            "startTime": self._unix,
            "uptimeSeconds": int(now - self._began),
            "bytesProxied": carried,
            "kbps10s1m5m15m30m60m": self.kbps(now, carried),
        }

"""How much of the time an engine may compute: after work it rests as long as its duty asks.

As BOINC's "use at most so much of the CPU time", but between batches, not within them. Rule of the file:
sans-IO; times are seconds of any clock that only goes forward.
"""

from __future__ import annotations

SMALLEST_DUTY = 0.01


class Pace:
    """One engine's work and rest. ``duty``, which may be set at any time, is the share of the time to work:
    1 never rests, 0.5 rests as long as it worked.

    ``busy`` is how many seconds were worked in all.
    """

    def __init__(self) -> None:
        self.duty = 1.0
        self.busy = 0.0
        self._worked, self._ended = 0.0, 0.0  # seconds of work since the last rest; when it ended

    def worked(self, started: float, ended: float) -> None:
        """The engine computed from ``started`` to ``ended``."""
        seconds = max(0.0, ended - started)
        self.busy += seconds
        self._worked, self._ended = seconds, ended

    def rest(self, now: float) -> float:
        """Seconds still to idle before the next work; 0: go on."""
        pause = self._worked * (1.0 / max(self.duty, SMALLEST_DUTY) - 1.0)
        return max(0.0, self._ended + pause - now)

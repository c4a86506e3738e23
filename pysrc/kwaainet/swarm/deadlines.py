"""How long a client waits for a step before it doubts the server, and before it gives the server up.

Follows RFC 6298 (TCP's retransmission timer): a smoothed mean and a smoothed deviation of what was observed,
apart for single tokens and for prompts, whose time grows with their length. Doubt costs a few questions,
giving up costs a replay, so the first comes early and the second late. Rule of the file: arithmetic on what
was observed; seconds everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

GAIN, DEVIATION_GAIN = 1 / 8, 1 / 4  # RFC 6298's alpha and beta
DEVIATIONS = 4.0  # RFC 6298's K: what is within mean + K deviations is usual
SLACK = 1.5  # doubt begins at so many times the usual ...
PROMPT_SLACK = 3.0  # ... or at so many for prompts, as time is not quite proportional to length
DOUBT_FLOOR, DOUBT_CAP = 0.3, 60.0
FRESH_FLOOR = 3.0  # doubt about a server's first step: it opens a session, and may wait for room
UNKNOWN_SLACK = 10.0  # where only the announced rate is known
GIVE_UP_FACTOR = 16.0  # a server that answers pings is given up at so many times the doubt
GIVE_UP_FLOOR = 20.0


@dataclass(slots=True)
class Estimate:
    """Mean and deviation of one quantity."""

    mean: float
    deviation: float

    def add(self, value: float) -> None:
        """One more observation."""
        self.deviation += DEVIATION_GAIN * (abs(value - self.mean) - self.deviation)
        self.mean += GAIN * (value - self.mean)

    @property
    def usual(self) -> float:
        """What few observations exceed."""
        return self.mean + DEVIATIONS * self.deviation


class StepDeadlines:
    """Of one server."""

    def __init__(self) -> None:
        self._single: Estimate | None = None  # seconds of a step of one token
        self._each: Estimate | None = None  # seconds a token of a longer step

    def observe(self, tokens: int, seconds: float) -> None:
        """A step of ``tokens`` (positions x rows) took ``seconds``."""
        if tokens == 1:
            self._single = _with(self._single, seconds)
        else:
            self._each = _with(self._each, seconds / tokens)

    def doubt(self, tokens: int, announced: float, *, fresh: bool) -> float:
        """Seconds after which a step of ``tokens`` is later than usual.

        ``announced``: seconds it would take by the server's own words; ``fresh``: its session is new.
        """
        if tokens == 1 and self._single is not None:
            usual = SLACK * self._single.usual
        elif tokens > 1 and self._each is not None:
            usual = PROMPT_SLACK * self._each.usual * tokens
        else:
            usual = UNKNOWN_SLACK * announced
            fresh = True
        return min(max(usual, FRESH_FLOOR if fresh else DOUBT_FLOOR), max(DOUBT_CAP, announced))


def give_up(doubt: float) -> float:
    """Seconds after which a server that still answers pings is given up all the same."""
    return max(GIVE_UP_FACTOR * doubt, GIVE_UP_FLOOR)


def _with(estimate: Estimate | None, value: float) -> Estimate:
    if estimate is None:
        return Estimate(value, value / 2)
    estimate.add(value)
    return estimate

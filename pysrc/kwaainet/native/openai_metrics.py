"""What the OpenAI endpoint has done so far, for ``/status.json``.

Rule of the file: pure and bounded; times are seconds, given by the caller.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

KEPT = 512  # the latest completions, whose times the percentiles are of


class Metrics:
    """Counts requests and tokens; remembers the latest times."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.cancelled = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self._statuses: Counter[int] = Counter()
        self._first: deque[float] = deque(maxlen=KEPT)
        self._total: deque[float] = deque(maxlen=KEPT)
        self._per_token: deque[float] = deque(maxlen=KEPT)

    def answered(self, status: int) -> None:
        """A request was answered with this HTTP status."""
        self._statuses[status] += 1

    def completed(self, prompt: int, tokens: int, first: float | None, total: float) -> None:
        """A completion has ended, in whatever way. ``first``: seconds to its first token, if it came."""
        self.prompt_tokens += prompt
        self.completion_tokens += tokens
        self._total.append(total)
        if first is not None:
            self._first.append(first)
            if tokens > 1:
                self._per_token.append((total - first) / (tokens - 1))

    def to_json(self) -> dict[str, Any]:
        """Counts since the start, and seconds of the latest completions."""
        return {
            "in_flight": self.in_flight,
            "requests": self._statuses.total(),
            "by_status": {str(status): count for status, count in sorted(self._statuses.items())},
            "cancelled": self.cancelled,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "seconds": {
                "first_token": _percentiles(self._first),
                "per_token": _percentiles(self._per_token),
                "completion": _percentiles(self._total),
            },
        }


def _percentiles(times: Sequence[float]) -> dict[str, float] | None:
    if not times:
        return None
    ordered = sorted(times)
    return {
        name: round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 4)
        for name, share in (("p50", 0.5), ("p95", 0.95))
    }

"""One model's leave to use the machine: kept to by its span, waited for by its loading.

Rule of the file: a change holds from the moment it is made, for sessions, room and pace at once; nothing
here announces it.
"""

from __future__ import annotations

import asyncio

from .limits import Allowance, Reason
from .pacing import Pace
from .span import ServedSpan

PAUSED = "the machine's owner has paused this server; another one can serve you"


class Permission:
    """What ``give`` said last; ``pace`` is the engine's."""

    def __init__(self) -> None:
        self.pace = Pace()
        self._allowance = Allowance()
        self._too_big = False
        self._granted = asyncio.Event()
        self._granted.set()

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why nothing may be computed now; empty when it may."""
        return (*self._allowance.reasons, "memory") if self._too_big else self._allowance.reasons

    @property
    def duty(self) -> float:
        """The share of the time there is for computing."""
        return self._allowance.duty

    def give(self, allowance: Allowance) -> None:
        """From now on this holds, for those that ``apply`` it."""
        self._allowance = allowance
        self.pace.duty = allowance.duty

    def apply(self, span: ServedSpan, most_tokens: int, weights: int, token: int) -> None:
        """Hold ``span`` to it. Its weights take ``weights`` bytes, and a token of its cache ``token``."""
        memory = self._allowance.memory_bytes
        room = most_tokens if memory == 0 else min(most_tokens, max(0, memory - weights) // token)
        self._too_big = room == 0
        if room != span.admission.total:
            span.admission.resize(room)
        if self.reasons:
            self._granted.clear()
            span.pause(PAUSED)
        else:
            self._granted.set()
            span.unpause()
            span.look_again()

    async def granted(self) -> None:
        """Wait until something may be computed."""
        await self._granted.wait()

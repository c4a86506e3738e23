"""What the person at a machine allows its node, and what follows from that at a given moment.

The house rules of BOINC and Folding@home: pausing stops using the machine at once, and a laptop on its
battery or a metered line is left alone unless its owner says otherwise. Rule of the file: a pure function
of limits, facts and the time; who carries it out is not its business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..errors import ConfigError

Reason: TypeAlias = Literal["asked", "hours", "battery", "metered", "hidden", "memory"]
"""Why a node is paused; ``memory``: its weights alone take more than is allowed."""

DAY = 24 * 60  # minutes
MAX_HOURS = 16  # ranges of a day
LEAST_DUTY = 0.01  # less is a pause


@dataclass(frozen=True, slots=True)
class Limits:
    """What is allowed. ``duty`` is the share of the time the engine may compute, ``memory_bytes`` what
    weights and caches may take together (0: no limit), ``hours`` ranges [from, to) of minutes since local
    midnight, over midnight if from is the later one; without any the whole day.
    """

    duty: float = 1.0
    memory_bytes: int = 0
    hours: tuple[tuple[int, int], ...] = ()
    pause_on_battery: bool = True
    pause_on_metered: bool = True
    pause_when_hidden: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.duty <= 1.0:
            raise ConfigError(f"duty is {self.duty}; give the share of time to compute, 0 to 1")
        if self.memory_bytes < 0:
            raise ConfigError(f"memory_bytes is {self.memory_bytes}; give 0 or more")
        if len(self.hours) > MAX_HOURS:
            raise ConfigError(f"{len(self.hours)} ranges of hours were given; {MAX_HOURS} are allowed")
        for first, last in self.hours:
            if not (0 <= first < DAY and 0 <= last <= DAY):
                raise ConfigError(f"hours {first} to {last} are no minutes of a day, 0 to {DAY}")


@dataclass(frozen=True, slots=True)
class Facts:
    """How things are. ``paused``: the person wants it; ``utc_offset``: minutes that local time is ahead."""

    paused: bool = False
    on_battery: bool = False
    metered: bool = False
    hidden: bool = False
    utc_offset: int = 0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the node may do now: compute for ``duty`` of the time with ``memory_bytes`` (0: as much as it
    likes), or nothing, for these ``reasons``."""

    reasons: tuple[Reason, ...] = ()
    duty: float = 1.0
    memory_bytes: int = 0

    @property
    def paused(self) -> bool:
        """Whether nothing may be computed."""
        return bool(self.reasons)


def allow(limits: Limits, facts: Facts, now: float) -> Allowance:
    """What may be done at ``now``, in unix seconds."""
    minute = int(now // 60 + facts.utc_offset) % DAY
    against: tuple[tuple[Reason, bool], ...] = (
        ("asked", facts.paused or limits.duty < LEAST_DUTY),
        ("hours", not is_within(limits.hours, minute)),
        ("battery", facts.on_battery and limits.pause_on_battery),
        ("metered", facts.metered and limits.pause_on_metered),
        ("hidden", facts.hidden and limits.pause_when_hidden),
    )
    reasons = tuple(reason for reason, holds in against if holds)
    return Allowance(reasons, max(limits.duty, LEAST_DUTY), limits.memory_bytes)


def is_within(hours: tuple[tuple[int, int], ...], minute: int) -> bool:
    """Whether a minute of the day is in any of these ranges; from and to the same is the whole day."""
    return not hours or any(
        first <= minute < last if first < last else minute >= first or minute < last for first, last in hours
    )

"""What may be done when: a table of rules."""

from __future__ import annotations

from typing import Any

import pytest

from kwaainet.errors import ConfigError
from kwaainet.node.limits import DAY, MAX_HOURS, Allowance, Facts, Limits, allow, is_within

NOON = 12 * 3600.0  # of 1 January 1970


@pytest.mark.parametrize(
    ("limits", "facts", "reasons"),
    [
        ({}, {}, ()),
        ({}, {"paused": True}, ("asked",)),
        ({"duty": 0.0}, {}, ("asked",)),
        ({}, {"on_battery": True}, ("battery",)),
        ({"pause_on_battery": False}, {"on_battery": True}, ()),
        ({}, {"metered": True}, ("metered",)),
        ({"pause_on_metered": False}, {"metered": True}, ()),
        ({}, {"hidden": True}, ()),
        ({"pause_when_hidden": True}, {"hidden": True}, ("hidden",)),
        ({"pause_when_hidden": True}, {}, ()),
        ({"hours": ((22 * 60, 6 * 60),)}, {}, ("hours",)),
        ({"hours": ((22 * 60, 6 * 60),)}, {"utc_offset": 11 * 60}, ()),
        ({"hours": ((22 * 60, 6 * 60),)}, {"utc_offset": -8 * 60}, ()),
        ({"hours": ((9 * 60, 17 * 60),)}, {"paused": True, "on_battery": True}, ("asked", "battery")),
    ],
)
def test_who_pauses_why(limits: dict[str, Any], facts: dict[str, Any], reasons: tuple[str, ...]) -> None:
    allowed = allow(Limits(**limits), Facts(**facts), NOON)
    assert allowed.reasons == reasons
    assert allowed.paused == bool(reasons)


def test_what_is_left_to_do_is_passed_on() -> None:
    assert allow(Limits(duty=0.25, memory_bytes=7), Facts(), NOON) == Allowance((), 0.25, 7)
    assert allow(Limits(duty=0.0), Facts(), NOON).duty > 0, "nobody divides by it"


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        ((), (0, 720, 1439), ()),
        (((540, 1020),), (540, 1019), (539, 1020, 0)),
        (((1320, 360),), (1320, 1439, 0, 359), (360, 1319)),
        (((300, 300),), (0, 300, 1439), ()),
        (((0, DAY),), (0, 1439), ()),
        (((60, 120), (180, 240)), (60, 239), (120, 179, 240)),
    ],
)
def test_hours(hours: tuple[tuple[int, int], ...], inside: tuple[int, ...], outside: tuple[int, ...]) -> None:
    assert all(is_within(hours, minute) for minute in inside)
    assert not any(is_within(hours, minute) for minute in outside)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"duty": 1.5}, "duty is 1.5"),
        ({"duty": float("nan")}, "duty is nan"),
        ({"memory_bytes": -1}, "memory_bytes is -1"),
        ({"hours": ((0, DAY + 1),)}, "no minutes of a day"),
        ({"hours": ((-1, 5),)}, "no minutes of a day"),
        ({"hours": ((1, 2),) * (MAX_HOURS + 1)}, "ranges of hours"),
    ],
)
def test_what_makes_no_sense_is_refused(limits: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Limits(**limits)

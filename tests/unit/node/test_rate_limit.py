"""A minute's share comes back as it was used, and who is counted is bounded."""

from __future__ import annotations

import pytest

from kwaainet.errors import CapacityError, LimitExceeded
from kwaainet.node.rate_limit import RateLimit
from kwaainet.types import PeerId

ONE, TWO, THREE = (PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes([number]) * 32) for number in range(3))


def test_each_peer_has_its_own_minute() -> None:
    limit = RateLimit("parts", 2, 8)
    limit.count(ONE, 0.0)
    limit.count(ONE, 30.0)
    for now in (30.0, 59.9):
        with pytest.raises(LimitExceeded, match="more than 2 parts within a minute; slow down"):
            limit.count(ONE, now)
    limit.count(TWO, 59.9)
    limit.count(ONE, 60.0)  # the first is a minute ago, the second is not
    with pytest.raises(LimitExceeded):
        limit.count(ONE, 89.9)
    limit.count(ONE, 90.0)


def test_a_peer_too_many_waits_until_another_was_silent_for_a_minute() -> None:
    limit = RateLimit("parts", 2, 2)
    limit.count(ONE, 0.0)
    limit.count(TWO, 10.0)
    with pytest.raises(CapacityError, match="2 peers ask for parts here already; ask another"):
        limit.count(THREE, 59.9)
    limit.count(TWO, 59.9)  # who is known is still served
    limit.count(THREE, 60.0)


def test_a_clock_that_is_set_back_refuses_nobody() -> None:
    limit = RateLimit("parts", 1, 8)
    limit.count(ONE, 3600.0)
    limit.count(ONE, 0.0)
    with pytest.raises(LimitExceeded):
        limit.count(ONE, 59.9)
    limit.count(ONE, 60.0)


def test_those_who_have_gone_are_forgotten_long_before_there_are_too_many() -> None:
    limit = RateLimit("parts", 2, 100_000)
    for number in range(10_000):
        limit.count(PeerId(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big")), float(number))
    assert len(limit._asked) <= 240, "a minute's, and as many again before the next sweep"

"""Silent peers are left alone for longer and longer."""

import pytest

from kwaainet.dht import blacklist
from kwaainet.dht.blacklist import MAX_BAN, Blacklist
from kwaainet.types import PeerId


def peer(number: int) -> PeerId:
    return PeerId(b"\x00\x01" + bytes([number]))


def test_bans_double() -> None:
    banned, now = Blacklist(), 0.0
    for number, seconds in enumerate((5, 10, 20, 40, 80), start=1):
        assert banned.fail(peer(1), now) == number
        assert banned.is_banned(peer(1), now + seconds - 0.1)
        now += seconds
        assert not banned.is_banned(peer(1), now)
    assert not banned.is_banned(peer(2), 0.0)


def test_bans_end() -> None:
    banned, now = Blacklist(), 0.0
    for _ in range(30):
        banned.fail(peer(1), now)
        now += MAX_BAN
        assert not banned.is_banned(peer(1), now)


def test_failures_side_by_side_count_once() -> None:
    banned = Blacklist()
    assert [banned.fail(peer(1), 0.0), banned.fail(peer(1), 1.0)] == [1, 1]
    assert not banned.is_banned(peer(1), 5.0)


def test_an_answer_clears() -> None:
    banned = Blacklist()
    banned.fail(peer(1), 0.0)
    banned.succeed(peer(1))
    banned.succeed(peer(2))
    assert not banned.is_banned(peer(1), 0.0)
    assert banned.fail(peer(1), 1.0) == 1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blacklist, "MAX_PEERS", 3)
    banned = Blacklist()
    for number in range(5):
        banned.fail(peer(number), float(number))
    assert [banned.is_banned(peer(number), 4.5) for number in range(5)] == [False, False, True, True, True]


def test_a_clock_that_is_set_back_bans_nobody_for_as_long() -> None:
    banned = Blacklist()
    banned.fail(peer(1), 86_400.0)
    assert not banned.is_banned(peer(1), 0.0)
    assert banned.fail(peer(1), 0.0) == 2
    assert banned.is_banned(peer(1), 9.9)
    assert not banned.is_banned(peer(1), 10.0)

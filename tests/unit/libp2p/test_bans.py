"""Rules about whom a relay lets in."""

from __future__ import annotations

import os

import pytest

from kwaainet.errors import CapacityError, ConfigError, InputError
from kwaainet.libp2p import bans as module
from kwaainet.libp2p.bans import Address, Rules, parse_host, parse_subject
from kwaainet.types import PeerId

NOW = 1_000_000.0


def peer() -> PeerId:
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + os.urandom(32))


def at(text: str) -> Address:
    host = parse_host(text)
    assert host is not None
    return host


def test_subjects_are_peers_addresses_and_subnets() -> None:
    one = peer()
    assert parse_subject(str(one)) == one
    assert str(parse_subject("192.0.2.1")) == "192.0.2.1/32"
    assert str(parse_subject("2001:db8::/48")) == "2001:db8::/48"
    assert str(parse_subject("::ffff:192.0.2.0/120")) == "192.0.2.0/24"
    assert parse_host("example.org") is None
    assert parse_host("") is None


@pytest.mark.parametrize("text", ["", "example.org", "192.0.2.1/24", "192.0.2.0/33", "12D3Koo", "1:2"])
def test_anything_else_is_no_subject(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_subject(text)


def test_a_ban_ends_in_time_or_by_word() -> None:
    rules, one = Rules(), peer()
    rules.ban(str(one), "rude", 10, NOW)
    rules.ban("192.0.2.0/24", "a botnet", None, NOW)
    assert rules.refusal(one, None, NOW) == rules.refusal(None, at("192.0.2.7"), NOW) == "banned"
    assert rules.refusal(peer(), at("192.0.3.7"), NOW) is None
    assert rules.refusal(one, None, NOW + 10) is None
    assert [ban.reason for ban in rules.bans(NOW + 10)] == ["a botnet"]
    assert rules.unban("192.0.2.0/24")
    assert not rules.unban("192.0.2.0/24")
    assert rules.refusal(None, at("192.0.2.7"), NOW) is None


def test_what_is_allowed_wins() -> None:
    friend = peer()
    rules = Rules([str(friend), "192.0.2.5"], ["192.0.2.0/24"])
    rules.ban("192.0.0.0/16", "all of them", None, NOW)
    assert rules.refusal(friend, at("192.0.2.1"), NOW) is None
    assert rules.refusal(None, at("192.0.2.5"), NOW) is None
    assert rules.refusal(None, at("192.0.2.6"), NOW) == "banned"


def test_only_the_allowed_where_told_so() -> None:
    friend = peer()
    rules = Rules([str(friend)], allow_only=True)
    assert rules.refusal(None, at("192.0.2.1"), NOW) is None, "who it is, is not known yet"
    assert rules.refusal(friend, at("192.0.2.1"), NOW) is None
    assert rules.refusal(peer(), at("192.0.2.1"), NOW) == "not allowed"
    with pytest.raises(ConfigError, match="would let nobody in"):
        Rules(allow_only=True)


@pytest.mark.parametrize(
    ("subject", "reason", "seconds"),
    [("x", "", 1), ("192.0.2.1", "a\nb", 1), ("192.0.2.1", "a" * 201, 1), ("192.0.2.1", "", 0)],
)
def test_what_cannot_be_banned(subject: str, reason: str, seconds: float) -> None:
    with pytest.raises(ConfigError):
        Rules().ban(subject, reason, seconds, NOW)


def test_bans_have_a_cap_in_which_those_that_expired_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RULES", 2)
    rules = Rules()
    rules.ban("192.0.2.1", "", 5, NOW)
    rules.ban("192.0.2.2", "", None, NOW)
    rules.ban("192.0.2.2", "once more", None, NOW)
    with pytest.raises(CapacityError, match="2 bans"):
        rules.ban("192.0.2.3", "", None, NOW)
    rules.ban("192.0.2.3", "", None, NOW + 5)
    assert {str(ban.subject) for ban in rules.bans(NOW + 5)} == {"192.0.2.2/32", "192.0.2.3/32"}


def test_bans_are_kept_and_read_again() -> None:
    rules, again, one = Rules(), Rules(), peer()
    rules.ban(str(one), "rude", 10, NOW)
    rules.ban("2001:db8::/48", "a botnet", None, NOW)
    again.load(rules.encode(NOW).encode(), NOW)
    assert again.bans(NOW) == rules.bans(NOW)
    again.load(rules.encode(NOW).encode(), NOW + 11)
    assert [str(ban.subject) for ban in again.bans(NOW)] == ["2001:db8::/48"]


@pytest.mark.parametrize("data", [b"", b"{}x", b"[1]", b'[{"subject":1}]', b"\xff", b"[" * 100_000, b"7"])
def test_a_damaged_file_is_named(data: bytes) -> None:
    with pytest.raises(InputError, match="no bans"):
        Rules().load(data, NOW)

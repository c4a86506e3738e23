"""Every limit of a relay is hit here, by one peer, one address and one subnet."""

from __future__ import annotations

import os

import pytest

from kwaainet.errors import ConfigError
from kwaainet.libp2p import admission as module
from kwaainet.libp2p.admission import Admission, Kind, Limits, Origin, Pace, Priority, Scope
from kwaainet.libp2p.bans import Rules
from kwaainet.native.doors import MAX_OPENING
from kwaainet.types import PeerId

SMALL = Scope(2, 3, 4)
TIGHT = Limits(*[SMALL] * (len(Kind) + len(Pace)))


def peer() -> PeerId:
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + os.urandom(32))


def origins(scope: str, count: int) -> list[tuple[PeerId, str]]:
    """Who has no more in common than the scope: the same peer, address or subnet."""
    one = peer()
    return [
        {
            "peer": (one, f"192.0.{n}.1"),
            "address": (peer(), "192.0.2.1"),
            "subnet": (peer(), f"192.0.2.{n}"),
        }[scope]
        for n in range(count)
    ]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("scope", ["peer", "address", "subnet"])
def test_what_is_held_has_a_limit_for_each_scope(kind: Kind, scope: str) -> None:
    admission, limit = Admission(TIGHT), getattr(SMALL, scope)
    asked = [admission.origin(*who) for who in origins(scope, limit + 1)]
    assert [admission.take(kind, one) for one in asked] == [None] * limit + [
        f"too many {kind} of one {scope}"
    ]
    assert admission.refused == {f"too many {kind} of one {scope}": 1}
    other = admission.origin(peer(), "198.51.100.1")
    assert admission.take(kind, other) is None, "who is elsewhere is not concerned"
    admission.release(kind, asked[0])
    assert admission.take(kind, asked[-1]) is None, "there is room again"
    for one in (*asked[1:], other):
        admission.release(kind, one)
    assert len(admission) == 0, "nobody's address is remembered"


@pytest.mark.parametrize("pace", Pace)
@pytest.mark.parametrize("scope", ["peer", "address", "subnet"])
def test_what_is_done_so_often_has_a_pace_for_each_scope(pace: Pace, scope: str) -> None:
    admission, limit = Admission(TIGHT), getattr(SMALL, scope)
    asked = [admission.origin(*who) for who in origins(scope, limit + 1)]
    reason = f"too many {pace} of one {scope} a minute"
    assert [admission.hurry(pace, one, 10.0) for one in asked] == [None] * limit + [reason]
    assert admission.refused == {reason: 1}
    assert admission.hurry(pace, asked[-1], 10.0 + 60 / limit) is None, "one came back with time"
    admission.forget(10.0 + 130)
    assert len(admission) == 0, "after two minutes nobody is remembered"


def test_a_refusal_holds_nothing() -> None:
    admission = Admission(TIGHT)
    greedy = admission.origin(peer(), "192.0.2.1")
    for _ in range(9):
        admission.take(Kind.STREAM, greedy)
    assert admission.take(Kind.STREAM, admission.origin(peer(), "192.0.2.1")) is None
    assert admission.most()["streams"] == {"peer": 2, "address": 3, "subnet": 3}
    assert greedy.peer is not None
    assert admission.held(Kind.STREAM, greedy.peer) == 2


def test_an_address_of_ipv6_is_a_64_and_its_subnet_a_48() -> None:
    one = Admission().origin(None, "2001:db8:1:2:3:4:5:6")
    assert (one.address, one.subnet) == (bytes.fromhex("20010db800010002"), bytes.fromhex("20010db80001"))
    assert Admission().origin(None, "::ffff:192.0.2.7") == Admission().origin(None, "192.0.2.7")
    assert Admission().origin(None, "192.0.2.7") == Origin(None, b"\xc0\x00\x02\x07", b"\xc0\x00\x02")


@pytest.mark.parametrize("host", [None, "127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "example.org"])
def test_this_machine_and_who_has_no_address_are_counted_by_peer_alone(host: str | None) -> None:
    someone = peer()
    assert Admission().origin(someone, host) == Origin(someone)


def test_who_is_allowed_is_counted_by_peer_alone() -> None:
    friend = peer()
    admission = Admission(TIGHT, Rules(["192.0.2.0/24", str(friend)]))
    assert admission.origin(None, "192.0.2.9") == Origin()
    assert admission.origin(friend, "198.51.100.1") == Origin(friend)


def test_rules_refuse_and_are_counted() -> None:
    admission = Admission(rules=Rules(deny=["192.0.2.0/24"]))
    admission.rules.ban("198.51.100.1", "a scanner", 60, 1000.0)
    assert admission.refusal(None, "192.0.2.9", 1000.0) == "denied"
    assert admission.refusal(None, "198.51.100.1", 1059.0) == "banned"
    assert admission.refusal(None, "198.51.100.1", 1060.0) is None
    assert admission.refused == {"denied": 1, "banned": 1}


# --- bytes ----------------------------------------------------------------------------------------


def test_without_limits_on_bytes_none_wait() -> None:
    admission = Admission()
    assert not admission.paces_bytes
    assert admission.carry(Origin(peer()), 1 << 40, Priority.TAB, 1.0) == 0.0
    admission.change(Limits(subnet_bandwidth=1))
    assert admission.paces_bytes
    admission.change(Limits())
    assert not admission.paces_bytes


def test_a_peer_waits_for_what_it_overdrew() -> None:
    admission = Admission(Limits(peer_bandwidth=1000))
    one, other = Origin(peer()), Origin(peer())
    assert admission.paces_bytes
    assert admission.carry(one, 1000, Priority.TAB, 5.0) == 0.0, "a second's worth at once"
    assert admission.carry(one, 500, Priority.TAB, 5.0) == pytest.approx(0.5)
    assert admission.carry(other, 500, Priority.TAB, 5.0) == 0.0


@pytest.mark.parametrize("scope", ["address", "subnet"])
def test_peers_of_one_address_or_subnet_share_its_allowance(scope: str) -> None:
    admission = Admission(Limits().changed(f"{scope}_bandwidth", "1000"))
    asked = [admission.origin(*who) for who in origins(scope, 3)]
    assert [admission.carry(one, 1000, Priority.TAB, 5.0) for one in asked] == pytest.approx([0.0, 1.0, 2.0])
    assert admission.carry(admission.origin(peer(), "198.51.100.1"), 1000, Priority.TAB, 5.0) == 0.0


def test_where_all_share_one_allowance_ways_out_wait_first() -> None:
    admission = Admission(Limits(bandwidth=1000))
    someone = Origin(peer())
    assert admission.carry(someone, 600, Priority.TAB, 5.0) == 0.0
    assert admission.carry(someone, 100, Priority.OPEN_HOP, 5.0) == pytest.approx(0.2)
    assert admission.carry(someone, 300, Priority.TAB, 5.0) == 0.0, "the rest is for tabs"
    assert admission.carry(someone, 100, Priority.TAB, 5.0) == pytest.approx(0.1)
    assert admission.carry(someone, 0, Priority.OPEN_HOP, 6.0) == pytest.approx(0.0)


# --- bounds and settings --------------------------------------------------------------------------


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BUCKETS", 32)
    monkeypatch.setattr(module, "_FEW", 8)
    admission = Admission()
    for n in range(1000):
        admission.hurry(Pace.ARRIVAL, admission.origin(None, f"10.{n % 250}.{n // 250}.1"), 1.0)
        assert len(admission) <= 34


def test_limits_change_while_it_runs() -> None:
    admission, someone = Admission(TIGHT), Origin(peer())
    assert [admission.take(Kind.CIRCUIT, someone) for _ in range(3)][-1] is not None
    admission.change(admission.limits.changed("circuits", "3,3,3"))
    assert admission.take(Kind.CIRCUIT, someone) is None
    assert admission.limits.describe()["circuits"] == "3,3,3"
    assert admission.limits.changed("bandwidth", "5").bandwidth == 5


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("tabs", "1", "is no limit; there are connections, streams"),
        ("streams", "1,2", "is not PEER,ADDRESS,SUBNET"),
        ("streams", "1,2,x", "is not PEER,ADDRESS,SUBNET"),
        ("streams", "0,2,3", "a peer may have 1 at least"),
        ("streams", "3,2,3", "none more than its subnet"),
        ("bandwidth", "-1", "give bytes a second"),
    ],
)
def test_what_is_no_limit_is_refused(name: str, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Limits().changed(name, text)


def test_one_address_leaves_room_for_the_sockets_of_others() -> None:
    assert Limits().openings.address < Limits().openings.subnet < MAX_OPENING


def test_the_defaults_are_in_order() -> None:
    for name, text in Limits().describe().items():
        assert Limits().changed(name, text) == Limits()

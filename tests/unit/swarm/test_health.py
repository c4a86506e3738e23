from kwaainet.swarm.health import MAX_BAN, MAX_PEERS, PeerHealth, Reason
from kwaainet.types import PeerId

PEER = PeerId(b"\x12\x20" + b"a" * 32)


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def test_bans_double_and_an_answer_forgives() -> None:
    health, now = PeerHealth(), 100.0
    for seconds in (5.0, 10.0, 20.0):
        ban = health.fail(PEER, Reason.GONE, "reset", now)
        assert ban.until == now + seconds
        assert health.is_banned(PEER, now + seconds - 0.1)
        now += seconds
        assert not health.is_banned(PEER, now)
    health.succeed(PEER)
    assert health.fail(PEER, Reason.GONE, "reset", now).failures == 1


def test_a_ban_never_exceeds_its_cap() -> None:
    health, now = PeerHealth(), 0.0
    for _ in range(20):
        now = health.fail(PEER, Reason.SILENT, "late", now).until
    assert health.fail(PEER, Reason.SILENT, "late", now).until == now + MAX_BAN


def test_failures_side_by_side_count_once_but_a_worse_one_replaces() -> None:
    health = PeerHealth()
    health.fail(PEER, Reason.GONE, "one", 0.0)
    assert health.fail(PEER, Reason.GONE, "two", 1.0).failures == 1
    worse = health.fail(PEER, Reason.FAULTY, "NaN", 1.0)
    assert (worse.reason, worse.text, worse.until) == (Reason.FAULTY, "NaN", 241.0)
    assert health.fail(PEER, Reason.GONE, "three", 2.0) == worse


def test_a_ping_brings_back_only_who_was_gone() -> None:
    health = PeerHealth()
    health.fail(PEER, Reason.GONE, "reset", 0.0)
    health.answers(PEER, 1.0)
    assert not health.is_banned(PEER, 1.0)
    assert health.fail(PEER, Reason.SILENT, "late", 2.0).failures == 2
    health.answers(PEER, 3.0)
    assert health.is_banned(PEER, 3.0)


def test_bans_in_force_are_listed() -> None:
    health = PeerHealth()
    ban = health.fail(PEER, Reason.GONE, "reset", 0.0)
    assert health.bans(1.0) == {PEER: ban}
    assert health.bans(5.0) == {}


def test_only_so_many_are_remembered() -> None:
    health = PeerHealth()
    for number in range(MAX_PEERS + 1):
        health.fail(peer(number), Reason.GONE, "reset", float(number))
    assert not health.is_banned(peer(0), 0.5)
    assert len(health.bans(0.0)) == MAX_PEERS

"""Open HOP's policy: which addresses are public, and quotas that time refills and nothing else."""

import pytest

from kwaainet.libp2p import open_hop as module
from kwaainet.libp2p.circuit import Status
from kwaainet.libp2p.open_hop import Ledger, Quotas, Reason, TokenBucket, is_public
from kwaainet.types import PeerId

ALICE, BOB = (PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes([number]) * 32) for number in (1, 2))


@pytest.mark.parametrize("host", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::808:808"])
def test_the_internet_is_public(host):
    assert is_public(host)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "::"),
        *("10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd00::1", "fc00::1"),
        *("169.254.169.254", "fe80::1", "100.64.0.1", "224.0.0.1", "ff02::1", "255.255.255.255"),
        *("::ffff:10.0.0.1", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::a00:1", "2001:0:1234::1"),
        *("localhost", "example.org", "", "1.1.1.1.1", "0x7f000001"),
    ],
)
def test_everything_else_is_not(host):
    assert not is_public(host)


def test_a_bucket_refills_over_a_minute_and_may_be_overdrawn():
    bucket = TokenBucket(60.0)
    assert bucket.is_full(0.0)
    assert bucket.take(60, 0.0) == 0.0
    assert bucket.take(30, 0.0) == 30.0
    assert bucket.level(30.0) == 0.0
    assert bucket.take(1, 40.0) == 0.0
    assert bucket.level(1e9) == 60.0, "and holds no more than a minute's worth"
    assert bucket.is_full(1e9)


def test_a_sources_circuits_are_capped_until_one_ends():
    ledger = Ledger(Quotas(source_circuits=2))
    assert [ledger.admit(ALICE, 0.0) for _ in range(3)] == [None, None, Reason.SOURCE_CIRCUITS]
    assert ledger.admit(BOB, 0.0) is None, "somebody else's quota is their own"
    assert ledger.circuits == 3
    ledger.release(ALICE)
    assert ledger.admit(ALICE, 0.0) is None


def test_all_circuits_together_are_capped():
    ledger = Ledger(Quotas(all_circuits=1))
    assert ledger.admit(ALICE, 0.0) is None
    assert ledger.admit(BOB, 0.0) is Reason.ALL_CIRCUITS
    ledger.release(ALICE)
    assert ledger.admit(BOB, 0.0) is None


def test_attempts_are_capped_per_minute_whatever_comes_of_them():
    ledger = Ledger(Quotas(all_attempts=2))
    for source in (ALICE, BOB):
        assert ledger.admit(source, 0.0) is None
        ledger.release(source)
    assert ledger.admit(ALICE, 0.0) is Reason.ALL_ATTEMPTS
    assert ledger.admit(BOB, 31.0) is None


def test_bytes_over_the_quota_wait():
    ledger = Ledger(Quotas(source_bytes=6000))
    ledger.admit(ALICE, 0.0)
    assert ledger.carry(ALICE, 6000, 0.0) == 0.0
    assert ledger.carry(ALICE, 200, 0.0) == 2.0
    assert ledger.carry(ALICE, 0, 2.0) == 0.0
    assert ledger.carried == 6200


def test_no_more_sources_are_remembered_than_the_cap_and_none_that_owes_is_forgotten(monkeypatch):
    monkeypatch.setattr(module, "MAX_SOURCES", 1)
    ledger = Ledger()
    assert ledger.admit(ALICE, 0.0) is None
    assert ledger.admit(BOB, 1e6) is Reason.ALL_ATTEMPTS, "the first has a circuit"
    ledger.release(ALICE)
    assert ledger.admit(ALICE, 1e6) is None
    ledger.carry(ALICE, 1, 1e6)
    ledger.release(ALICE)
    assert ledger.admit(BOB, 1e6) is Reason.ALL_ATTEMPTS, "and now bytes to pay off"
    assert ledger.admit(BOB, 2e6) is None


def test_every_reason_has_its_status():
    assert {reason.status for reason in Reason} == {
        Status.NO_RESERVATION,
        Status.PERMISSION_DENIED,
        Status.RESOURCE_LIMIT_EXCEEDED,
        Status.CONNECTION_FAILED,
    }

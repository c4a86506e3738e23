"""Relays that are broken in their libp2p, one way each."""

import asyncio
from collections.abc import Callable

import pytest

from kwaainet.libp2p.circuit import HOP_PROTOCOL, Status
from kwaainet.native.doctor import Report

from .doctored import Patient, failed, patient, step


def examined(before: Callable[[Patient], None], *, with_dht: bool = True) -> Report:
    async def main() -> Report:
        async with patient(before=before, with_dht=with_dht) as one:
            return await one.examined()

    return asyncio.run(asyncio.wait_for(main(), 60))


def test_another_peer_than_the_one_announced() -> None:
    other = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"

    def announce(one: Patient) -> None:
        one.said.update(
            relay=[address.replace(str(one.host.peer_id), other) for address in one.said["relay"]]
        )

    report = examined(announce)
    assert failed(report) == ["noise"]
    assert "somebody else answers there" in report.why
    assert "--state-dir" in step(report, "noise").remedy


@pytest.mark.parametrize(
    ("broken", "cause"),
    [
        (lambda one: setattr(one.relay, "draining", True), "RESERVATION_REFUSED"),
        (lambda one: one.host.network._handlers.pop(HOP_PROTOCOL), "failed"),
    ],
)
def test_a_relay_that_gives_no_slot(broken: Callable[[Patient], None], cause: str) -> None:
    report = examined(broken)
    assert failed(report) == ["reservation"]
    assert "no slot for a tab" in report.why
    assert cause in report.why


def test_a_relay_that_opens_no_circuit() -> None:
    def refuse(one: Patient) -> None:
        one.relay._policy = lambda source, target: Status.PERMISSION_DENIED

    report = examined(refuse)
    assert failed(report) == ["circuit", "kad lookup"]
    assert "PERMISSION_DENIED" in report.why


def test_a_relay_that_does_not_tell_of_its_tabs() -> None:
    def forget(one: Patient) -> None:
        one.host.routing._sources.clear()

    report = examined(forget)
    assert failed(report) == ["kad lookup"]
    assert "a tab is not found by its id" in report.why


def test_a_relay_in_no_dht() -> None:
    report = examined(lambda one: None, with_dht=False)
    assert failed(report) == ["dht"]
    assert "the relay is in no DHT" in report.why

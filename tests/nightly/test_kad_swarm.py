"""Tabs are found by id among 10,000 kad servers; the short form is ``tests/swarm/test_kad_swarm.py``."""

from swarm.test_kad_swarm import WAYS, lookups, share


def test_tabs_near_their_relay_are_found_among_ten_thousand() -> None:
    assert share(list(lookups(10_000, WAYS["settled, tabs near"], 100))) >= 0.95
    assert share(list(lookups(10_000, WAYS["before"], 100))) < 0.1


def test_so_they_are_when_their_relay_is_lost_and_another_stands_near() -> None:
    """Also when the relay's last search had 19 answers of 20, as this seed's had."""
    way = WAYS["two relays at their place, the tab's first lost"]
    assert share(list(lookups(10_000, way, 100))) >= 0.85


def test_several_relays_alone_find_nobody() -> None:
    assert share(list(lookups(10_000, WAYS["two relays anywhere, tabs anywhere"], 100))) < 0.1

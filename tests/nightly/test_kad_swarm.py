"""Tabs are found by id among 10,000 kad servers; the short form is ``tests/swarm/test_kad_swarm.py``."""

from swarm.test_kad_swarm import WAYS, lookups, share


def test_tabs_near_their_relay_are_found_among_ten_thousand() -> None:
    assert share(list(lookups(10_000, WAYS["settled, tabs near"], 100))) >= 0.95
    assert share(list(lookups(10_000, WAYS["before"], 100))) < 0.1

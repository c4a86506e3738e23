import pytest

from kwaainet.swarm.round_trips import EXPIRATION, MAX_PEERS, RoundTrips
from kwaainet.types import PeerId


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


def test_measurements_are_smoothed() -> None:
    trips = RoundTrips()
    assert trips.get(peer(1), 0.0) is None
    trips.add(peer(1), 0.1, 0.0)
    assert trips.get(peer(1), 1.0) == 0.1
    trips.add(peer(1), 0.2, 1.0)
    assert trips.get(peer(1), 1.0) == pytest.approx(0.12)


def test_an_old_measurement_is_forgotten() -> None:
    trips = RoundTrips()
    trips.add(peer(1), 0.1, 0.0)
    assert trips.get(peer(1), EXPIRATION) is None
    trips.add(peer(1), 0.5, EXPIRATION)
    assert trips.get(peer(1), EXPIRATION) == 0.5


def test_the_longest_unmeasured_come_first() -> None:
    trips = RoundTrips()
    for number in (1, 2, 3, 1):
        trips.add(peer(number), 0.1, 0.0)
    order = trips.longest_unmeasured([peer(n) for n in (1, 3, 4, 2, 4)], 3)
    assert order == [peer(4), peer(2), peer(3)]


def test_only_so_many_are_remembered() -> None:
    trips = RoundTrips()
    for number in range(MAX_PEERS + 1):
        trips.add(peer(number), 0.1, 0.0)
    assert trips.get(peer(0), 0.0) is None
    assert trips.get(peer(1), 0.0) == 0.1

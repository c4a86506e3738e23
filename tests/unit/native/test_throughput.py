"""Rates over the last ten seconds to the last hour."""

from kwaainet.native.throughput import WINDOWS, Throughput


def test_rates_are_over_each_window() -> None:
    watched, carried = Throughput(0.0, 1e9), 0
    for second in range(10, 7210, 10):
        carried += 12_500 if second > 3600 else 0  # 10 kbit/s in the second hour
        watched.sample(float(second), carried)
    assert watched.kbps(7200.0, carried) == [10] * 6
    assert watched.kbps(7210.0, carried) == [0, 8, 9, 9, 9, 9]
    told = watched.describe(7200.0, carried)
    assert (told["bytesProxied"], told["uptimeSeconds"], told["startTime"]) == (4_500_000, 7200, 1e9)
    assert len(watched._samples) == 361


def test_a_relay_that_just_began_has_rates_since_then() -> None:
    watched = Throughput(100.0, 0.0)
    assert watched.kbps(100.0, 0) == [0] * len(WINDOWS)
    assert watched.kbps(104.0, 5000) == [10] * 6

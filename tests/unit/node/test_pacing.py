"""Work and rest."""

from __future__ import annotations

import pytest

from kwaainet.node.pacing import Pace


@pytest.mark.parametrize(("duty", "rest"), [(1.0, 0.0), (0.5, 2.0), (0.25, 6.0), (0.8, 0.5)])
def test_it_rests_as_its_duty_asks(duty: float, rest: float) -> None:
    pace = Pace()
    pace.duty = duty
    assert pace.rest(10.0) == 0.0, "nothing was done yet"
    pace.worked(10.0, 12.0)
    assert pace.rest(12.0) == pytest.approx(rest)
    assert pace.rest(12.0 + rest / 2) == pytest.approx(rest / 2)
    assert pace.rest(12.0 + rest) == 0.0
    assert pace.busy == 2.0


def test_another_duty_counts_at_once() -> None:
    pace = Pace()
    pace.duty = 0.1
    pace.worked(0.0, 1.0)
    assert pace.rest(1.0) == pytest.approx(9.0)
    pace.duty = 1.0
    assert pace.rest(1.0) == 0.0


def test_no_duty_at_all_divides_by_nothing() -> None:
    pace = Pace()
    pace.duty = 0.0
    pace.worked(0.0, 1.0)
    assert 0 < pace.rest(1.0) < float("inf")

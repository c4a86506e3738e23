import pytest

from kwaainet.swarm.deadlines import (
    DOUBT_CAP,
    DOUBT_FLOOR,
    FRESH_FLOOR,
    GIVE_UP_FLOOR,
    Estimate,
    StepDeadlines,
    give_up,
)


def test_an_estimate_follows_what_is_observed() -> None:
    estimate = Estimate(1.0, 0.5)
    for _ in range(100):
        estimate.add(2.0)
    assert estimate.mean == pytest.approx(2.0, abs=1e-3)
    assert estimate.usual == pytest.approx(2.0, abs=1e-2)
    estimate.add(4.0)
    assert estimate.usual > 4.0


def test_a_quick_server_is_doubted_soon() -> None:
    deadlines = StepDeadlines()
    for _ in range(10):
        deadlines.observe(1, 0.02)
    assert deadlines.doubt(1, 0.01, fresh=False) == DOUBT_FLOOR
    assert deadlines.doubt(1, 0.01, fresh=True) == FRESH_FLOOR


def test_a_slow_server_is_given_its_time() -> None:
    deadlines = StepDeadlines()
    for _ in range(30):
        deadlines.observe(1, 2.0)
    assert 3.0 <= deadlines.doubt(1, 0.01, fresh=False) < 3.5


def test_unsteady_times_make_patient() -> None:
    steady, unsteady = StepDeadlines(), StepDeadlines()
    for count in range(40):
        steady.observe(1, 1.0)
        unsteady.observe(1, 0.2 if count % 2 else 1.8)
    assert unsteady.doubt(1, 0.01, fresh=False) > 2 * steady.doubt(1, 0.01, fresh=False)


def test_prompts_are_given_time_by_their_length() -> None:
    deadlines = StepDeadlines()
    deadlines.observe(1, 0.02)
    for _ in range(20):
        deadlines.observe(100, 1.0)
    assert deadlines.doubt(200, 0.01, fresh=False) == pytest.approx(6.0, rel=0.1)
    assert deadlines.doubt(1, 0.01, fresh=False) == DOUBT_FLOOR


def test_what_was_never_observed_is_judged_by_what_the_server_announces() -> None:
    deadlines = StepDeadlines()
    assert deadlines.doubt(1, 0.01, fresh=False) == FRESH_FLOOR
    assert deadlines.doubt(100, 3.0, fresh=False) == 30.0
    assert deadlines.doubt(100, 30.0, fresh=False) == DOUBT_CAP
    assert deadlines.doubt(100, 200.0, fresh=False) == 200.0


def test_giving_up_comes_long_after_doubt() -> None:
    assert give_up(1.0) == GIVE_UP_FLOOR
    assert give_up(5.0) == 80.0

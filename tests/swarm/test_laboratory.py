"""A swarm of tabs under churn, loss, partitions, slow, silent and lying peers: what must always hold.

No token is wrong; no session is lost while each of its blocks has a holder; nothing is left over.
"""

import pytest
from nightly.sizes import size
from swarm.laboratory import History, Record, play

LONG = size(30.0, 60.0)  # seconds of the swarm's


def check(record: Record) -> None:
    assert not record.wrong
    assert not record.lost
    assert not record.left_over
    assert record.sessions > len(record.excused)
    assert record.tokens > 0


def test_two_hundred_tabs_of_which_thirty_percent_are_lost_each_minute() -> None:
    record = play(History(tabs=200, users=4, seconds=size(40.0, 60.0), churn=0.3), seed=1)
    check(record)
    assert not record.excused
    assert record.failovers
    assert record.done_to.total() >= 30


@pytest.mark.parametrize("seed", range(size(1, 3)))
def test_a_small_swarm_loses_sessions_only_with_the_last_holder(seed: int) -> None:
    check(play(History(tabs=16, users=3, seconds=LONG, churn=0.5, loss=0.0), seed))


def test_a_part_of_the_swarm_is_cut_off() -> None:
    record = play(History(tabs=40, users=4, seconds=60.0, churn=0.05, split=0.3), seed=2)
    check(record)
    assert record.done_to["apart"] == 12


def test_calls_get_lost() -> None:
    check(play(History(tabs=30, users=3, seconds=LONG, churn=0.05, loss=0.1), seed=3))

"""Where a server goes, and when it goes elsewhere."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import InputError
from kwaainet.swarm.placement import Move, View, better_span, choose_span
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.types import BlockRange, PeerId, ServerState

PEERS = [PeerId(bytes.fromhex("002408011220") + bytes([n]) * 32) for n in range(40)]


def view(num_blocks: int, *spans: tuple[int, int, float], state: ServerState = ServerState.ONLINE) -> View:
    """The swarm in which ``PEERS[i]`` serves the i-th span (start, end, tokens a second)."""
    records: list[dict[PeerId, ServerInfo]] = [{} for _ in range(num_blocks)]
    for peer, (start, end, throughput) in zip(PEERS, spans, strict=False):
        for block in range(start, end):
            records[block][peer] = ServerInfo(state, throughput, start, end)
    return View.of(records)


def better(seen: View, number: int = 0, quality: float = 0.75, only_urgent: bool = False) -> Move | None:
    chance = random.Random(1).random
    return better_span(PEERS[number], seen, balance_quality=quality, chance=chance, only_urgent=only_urgent)


def test_speeds_add_up() -> None:
    assert list(view(4, (0, 3, 10.0), (2, 4, 5.0)).speeds()) == [10.0, 10.0, 15.0, 5.0]


def test_those_who_are_joining_count_and_those_who_left_do_not() -> None:
    assert list(view(2, (0, 2, 10.0), state=ServerState.JOINING).speeds()) == [10.0, 10.0]
    assert list(view(2, (0, 2, 10.0), state=ServerState.OFFLINE).speeds()) == [0.0, 0.0]


def test_a_gateway_holds_no_block() -> None:
    gateway = ServerInfo(ServerState.ONLINE, 9.0, 0, 2, version="1+gateway")
    assert list(View.of([{PEERS[0]: gateway}, {PEERS[0]: gateway}]).speeds()) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("spans", "length", "expected"),
    [
        ([], 2, "0:2"),
        ([(0, 2, 1.0)], 2, "2:4"),
        ([(0, 4, 1.0), (4, 8, 2.0)], 4, "0:4"),
        ([(0, 8, 9.0), (0, 3, 1.0), (5, 8, 1.0)], 2, "3:5"),
        ([(0, 7, 9.0)], 3, "5:8"),
        ([(0, 3, 5.0), (4, 8, 5.0)], 8, "0:8"),
    ],
)
def test_a_newcomer_goes_where_the_swarm_is_slowest(
    spans: list[tuple[int, int, float]], length: int, expected: str
) -> None:
    assert str(choose_span(view(8, *spans), length)) == expected


@pytest.mark.parametrize("length", [0, 9])
def test_a_length_that_the_model_has_not_is_refused(length: int) -> None:
    with pytest.raises(InputError, match="of a model of 8"):
        choose_span(view(8), length)


def test_one_of_two_at_the_same_place_goes_where_nobody_is() -> None:
    seen = view(8, (0, 4, 1.0), (0, 4, 1.0))
    assert better(seen) == Move(BlockRange(4, 8), urgent=True)
    assert better(seen, only_urgent=True) == Move(BlockRange(4, 8), urgent=True)


def test_the_only_server_of_its_blocks_stays_though_others_are_missing() -> None:
    assert better(view(8, (0, 4, 1.0))) is None
    assert better(view(8, (0, 4, 1.0), (2, 6, 1.0))) is None


def test_a_gap_is_filled_by_those_who_leave_a_smaller_one_behind() -> None:
    seen = view(12, (4, 8, 1.0), (6, 10, 1.0), (8, 12, 1.0), (5, 9, 1.0), (10, 12, 1.0))
    assert [number for number in range(5) if better(seen, number) is not None] == [0, 1, 2, 3, 4]
    assert better(seen, 1) == Move(BlockRange(0, 4), urgent=True)
    seen = view(12, (1, 5, 1.0), (5, 9, 1.0), (8, 12, 1.0))
    assert [number for number in range(3) if better(seen, number) is not None] == []


def test_a_lopsided_swarm_is_balanced() -> None:
    seen = view(8, (0, 4, 10.0), (0, 4, 10.0), (0, 4, 10.0), (4, 8, 10.0))
    assert better(seen) == Move(BlockRange(4, 8), urgent=False)
    assert better(seen, only_urgent=True) is None
    assert better(seen, 3) is None


def test_a_swarm_that_is_nearly_balanced_is_left_alone() -> None:
    assert better(view(8, (0, 4, 10.0), (0, 4, 2.0), (4, 8, 10.0))) is None


def test_quality_says_how_much_better_it_must_get() -> None:
    seen = view(8, *[(0, 4, 10.0)] * 6, *[(4, 8, 10.0)] * 4)
    assert better(seen, quality=0.75) is None
    assert better(seen, quality=0.9) == Move(BlockRange(4, 8), urgent=False)


def test_who_is_not_in_the_records_stays() -> None:
    assert better(view(8, (0, 4, 1.0)), 1) is None


SPANS = st.lists(
    st.tuples(st.integers(0, 11), st.integers(1, 6), st.floats(1.0, 100.0)), min_size=1, max_size=20
)


@given(SPANS, st.integers(0, 19))
def test_a_move_never_uncovers_more_than_it_covers(spans: list[tuple[int, int, float]], number: int) -> None:
    cut = [(start, min(start + length, 12), speed) for start, length, speed in spans]
    number %= len(cut)
    seen = view(12, *cut)
    move = better(seen, number)
    if move is None:
        return
    start, end, speed = cut[number]
    assert len(move.blocks) == end - start
    after = view(12, *cut[:number], (move.blocks.start, move.blocks.end, speed), *cut[number + 1 :])
    before_missing, after_missing = (seen.speeds() == 0).sum(), (after.speeds() == 0).sum()
    assert after_missing < before_missing if move.urgent else after_missing == 0
    if not move.urgent:
        assert tuple(np.sort(after.speeds())) > tuple(np.sort(seen.speeds()))

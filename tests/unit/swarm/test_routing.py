import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import Unreachable
from kwaainet.swarm.routing import Candidate, Hop, choose_chain
from kwaainet.types import BlockRange, PeerId


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + bytes([number]) * 32)


def candidate(number: int, start: int, end: int, *, rtt: float = 0.01, block: float = 0.001) -> Candidate:
    return Candidate(peer(number), BlockRange(start, end), block, rtt)


def test_one_server_of_everything_beats_two_halves() -> None:
    chain = choose_chain([candidate(1, 0, 3), candidate(2, 3, 6), candidate(3, 0, 6)], 6)
    assert chain == [Hop(peer(3), BlockRange(0, 6))]


def test_two_fast_halves_beat_a_slow_whole() -> None:
    chain = choose_chain([candidate(1, 0, 3), candidate(2, 3, 6), candidate(3, 0, 6, block=0.1)], 6)
    assert [hop.peer for hop in chain] == [peer(1), peer(2)]


def test_overlapping_spans_join() -> None:
    chain = choose_chain([candidate(1, 0, 4), candidate(2, 2, 6)], 6)
    assert chain == [Hop(peer(1), BlockRange(0, 4)), Hop(peer(2), BlockRange(4, 6))]


def test_a_part_of_a_span_costs_what_the_whole_does() -> None:
    chain = choose_chain([candidate(1, 0, 4), candidate(2, 1, 6), candidate(3, 4, 6)], 6)
    assert chain == [Hop(peer(1), BlockRange(0, 4)), Hop(peer(3), BlockRange(4, 6))]


def test_a_span_that_goes_on_behind_the_last_block_is_cut() -> None:
    assert choose_chain([candidate(1, 0, 9)], 6) == [Hop(peer(1), BlockRange(0, 6))]


def test_a_missing_block_is_named() -> None:
    with pytest.raises(Unreachable, match=r"block 2 of 6 \(1 missing\)"):
        choose_chain([candidate(1, 0, 2), candidate(2, 3, 6)], 6)
    with pytest.raises(Unreachable, match="block 0 of 1"):
        choose_chain([], 1)


SPANS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 6), st.integers(1, 50), st.integers(1, 50)),
    max_size=5,
)


@given(SPANS)
def test_the_chain_is_the_cheapest_of_all(rows: list[tuple[int, int, int, int]]) -> None:
    pool = [
        Candidate(peer(i), BlockRange(start, min(start + length, 6)), block / 1000, rtt / 1000)
        for i, (start, length, rtt, block) in enumerate(rows)
    ]
    costs = []
    for count in range(1, 7):
        for marks in itertools.combinations(range(1, 6), count - 1):
            edges = [0, *marks, 6]
            total = 0.0
            for start, end in itertools.pairwise(edges):
                able = [c.cost for c in pool if c.blocks.start <= start and end <= c.blocks.end]
                total += min(able, default=float("inf"))
            costs.append(total)
    if min(costs) == float("inf"):
        with pytest.raises(Unreachable):
            choose_chain(pool, 6)
        return
    chain = choose_chain(pool, 6)
    by_peer = {c.peer: c for c in pool}
    assert [b for hop in chain for b in range(hop.blocks.start, hop.blocks.end)] == list(range(6))
    assert sum(by_peer[hop.peer].cost for hop in chain) == pytest.approx(min(costs))

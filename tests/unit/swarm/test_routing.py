import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import Unreachable
from kwaainet.swarm.routing import (
    ALLOCATION_PENALTY,
    DEFAULT_RATE,
    OVERHEAD,
    UNKNOWN_ROUND_TRIP,
    Candidate,
    Hop,
    max_throughput,
    min_latency,
)
from kwaainet.types import BlockRange, PeerId

WHOLE = BlockRange(0, 6)


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + bytes([number]) * 32)


def candidate(number: int, text: str, rtt: float | None = 0.01, rate: float | None = 1000.0) -> Candidate:
    return Candidate(peer(number), BlockRange.parse(text), rate, rtt)


def hops(*rows: tuple[int, str]) -> list[Hop]:
    return [Hop(peer(number), BlockRange.parse(text)) for number, text in rows]


def test_one_server_of_everything_beats_two_halves() -> None:
    pool = [candidate(1, "0:3"), candidate(2, "3:6"), candidate(3, "0:6")]
    assert min_latency(pool, WHOLE) == hops((3, "0:6"))


def test_two_fast_halves_beat_a_slow_whole() -> None:
    pool = [candidate(1, "0:3"), candidate(2, "3:6"), candidate(3, "0:6", rate=10.0)]
    assert min_latency(pool, WHOLE) == hops((1, "0:3"), (2, "3:6"))


def test_overlapping_spans_join() -> None:
    assert min_latency([candidate(1, "0:4"), candidate(2, "2:6")], WHOLE) == hops((1, "0:4"), (2, "4:6"))


def test_a_part_of_a_span_costs_what_the_whole_does() -> None:
    pool = [candidate(1, "0:4"), candidate(2, "1:6"), candidate(3, "4:6")]
    assert min_latency(pool, WHOLE) == hops((1, "0:4"), (3, "4:6"))


def test_only_the_blocks_asked_for_are_routed() -> None:
    pool = [candidate(1, "0:4"), candidate(2, "2:6")]
    assert min_latency(pool, BlockRange(1, 3)) == hops((1, "1:3"))
    assert min_latency(pool, BlockRange(3, 6)) == hops((2, "3:6"))


def test_an_unknown_round_trip_counts_as_a_long_one() -> None:
    pool = [candidate(1, "0:6", rtt=None), candidate(2, "0:6", rtt=UNKNOWN_ROUND_TRIP - 0.01)]
    assert min_latency(pool, WHOLE) == hops((2, "0:6"))
    pool = [candidate(1, "0:6", rtt=None), candidate(2, "0:6", rtt=UNKNOWN_ROUND_TRIP + 0.01)]
    assert min_latency(pool, WHOLE) == hops((1, "0:6"))


def test_an_unknown_rate_counts_as_petals_takes_it() -> None:
    pool = [candidate(1, "0:6", rate=None), candidate(2, "0:6", rate=DEFAULT_RATE - 10)]
    assert min_latency(pool, WHOLE) == hops((1, "0:6"))


def test_servers_that_are_near_to_each_other_are_preferred() -> None:
    near = Candidate(peer(1), BlockRange(0, 3), 1000.0, 0.1, next_pings={str(peer(3)): 0.001})
    pool = [near, candidate(2, "3:6", rtt=0.1), candidate(3, "3:6", rtt=0.12)]
    assert min_latency(pool, WHOLE) == hops((1, "0:3"), (3, "3:6"))


def test_a_ping_worse_than_the_way_through_us_does_not_count() -> None:
    far = Candidate(peer(1), BlockRange(0, 3), 1000.0, 0.1, next_pings={str(peer(3)): float("inf")})
    pool = [far, candidate(2, "3:6", rtt=0.11), candidate(3, "3:6", rtt=0.1)]
    assert min_latency(pool, WHOLE) == hops((1, "0:3"), (3, "3:6"))


def test_a_server_without_room_for_the_session_is_a_last_resort() -> None:
    full = Candidate(peer(1), WHOLE, 1000.0, 0.01, cache_tokens_left=2 * 6 * 100 - 1)
    slow = candidate(2, "0:6", rate=10.0)
    assert min_latency([full, slow], WHOLE, 99) == hops((1, "0:6"))
    assert min_latency([full, slow], WHOLE, 100) == hops((2, "0:6"))
    assert min_latency([full], WHOLE, 100) == hops((1, "0:6"))
    assert full.entry_seconds(100) == OVERHEAD + ALLOCATION_PENALTY


def test_a_missing_block_is_named() -> None:
    with pytest.raises(Unreachable, match=r"block 2 of 6 \(1 missing\)"):
        min_latency([candidate(1, "0:2"), candidate(2, "3:6")], WHOLE)
    with pytest.raises(Unreachable, match="block 3 of 6"):
        max_throughput([candidate(1, "0:3")], WHOLE, lambda: 0.5)


def cost(chain: tuple[Candidate, ...]) -> float:
    total = chain[0].one_way + chain[-1].one_way
    total += sum(OVERHEAD + one.compute_seconds for one in chain)
    return total + sum(between(one, other) for one, other in itertools.pairwise(chain))


def between(one: Candidate, other: Candidate) -> float:
    """Through us, or directly where the server has told its ping."""
    through_us = one.one_way + other.one_way
    ping = one.next_pings.get(str(other.peer))
    return through_us if ping is None else min(ping / 2, through_us)


SPANS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 6), st.integers(1, 500), st.integers(1, 50)),
    max_size=5,
)


@given(SPANS, st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 50)), max_size=4))
def test_the_chain_is_the_soonest_of_all(
    rows: list[tuple[int, int, int, int]], pings: list[tuple[int, int, int]]
) -> None:
    told: list[dict[str, float]] = [{} for _ in range(5)]
    for one, other, milliseconds in pings:
        told[one][str(peer(other))] = milliseconds / 1000
    pool = [
        Candidate(peer(i), BlockRange(start, min(start + length, 6)), rate, rtt / 1000, next_pings=told[i])
        for i, (start, length, rate, rtt) in enumerate(rows)
    ]
    costs = []
    for count in range(1, 7):
        for chain in itertools.permutations(pool, count):
            block = 0
            for one in chain:
                block = one.blocks.end if block in one.blocks else 99
            if block == 6:
                costs.append(cost(chain))
    if not costs:
        with pytest.raises(Unreachable):
            min_latency(pool, WHOLE)
        return
    chosen = min_latency(pool, WHOLE)
    by_peer = {one.peer: one for one in pool}
    assert [b for hop in chosen for b in range(hop.blocks.start, hop.blocks.end)] == list(range(6))
    assert cost(tuple(by_peer[hop.peer] for hop in chosen)) == pytest.approx(min(costs))


def test_throughput_spreads_by_length_and_speed() -> None:
    pool = [
        Candidate(peer(1), BlockRange(0, 6), throughput=3.0),
        Candidate(peer(2), BlockRange(0, 6), throughput=1.0),
        Candidate(peer(3), BlockRange(0, 2), throughput=6.0),
        Candidate(peer(4), BlockRange(2, 6), throughput=0.0),
    ]
    chances = iter(number / 997 for number in range(997 * 4))
    drawn = Counter(max_throughput(pool, WHOLE, lambda: next(chances))[0].peer for _ in range(900))
    assert drawn[peer(1)] > 2 * drawn[peer(2)] > 0
    assert drawn[peer(3)] > drawn[peer(2)]
    chain = max_throughput(pool, WHOLE, lambda: 0.9999)
    assert chain[0].peer == peer(3)
    assert [block for hop in chain for block in range(hop.blocks.start, hop.blocks.end)] == list(range(6))


def test_a_server_that_announces_no_throughput_is_still_taken_where_it_is_alone() -> None:
    alone = Candidate(peer(1), WHOLE, throughput=0.0)
    for chance in (0.0, 0.5, 0.999999):
        assert max_throughput([alone], WHOLE, lambda chance=chance: chance) == hops((1, "0:6"))  # type: ignore[misc]

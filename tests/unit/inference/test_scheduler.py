"""Who runs next: rounds, chunks, turns by peer, and what is held for whom."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from kwaainet.inference.scheduler import (
    HOLD_SHARE,
    MAX_CHUNK,
    MAX_PEERS,
    MAX_ROWS,
    MIN_CHUNK,
    QUIET_TURNS,
    Job,
    Scheduler,
    Work,
)
from kwaainet.types import PeerId


def peer(number: int) -> PeerId:
    return PeerId(bytes([0, 2, number >> 8, number & 255]))


def step(session: object, of: int = 0, rows: int = 1) -> Job:
    return Job(session, peer(of), rows, 1)


def prompt(session: object, tokens: int, of: int = 0, rows: int = 1) -> Job:
    return Job(session, peer(of), rows, tokens)


def take(scheduler: Scheduler[Job], now: float = 0.0, seconds: float = 0.0) -> Work[Job]:
    """The next work, done; what is left of a prompt waits again."""
    work = scheduler.next(now)
    assert work is not None
    scheduler.done(work, now + seconds)
    for job in work.jobs:
        if job.tokens:
            scheduler.add(job, now + seconds)
    return work


def sessions(work: Work[Job]) -> list[object]:
    return [job.session for job in work.jobs]


def filled(*jobs: Job) -> Scheduler[Job]:
    scheduler: Scheduler[Job] = Scheduler()
    for job in jobs:
        scheduler.add(job, 0.0)
    return scheduler


def test_nothing_waits_at_first() -> None:
    assert Scheduler[Job]().next(0.0) is None


def test_all_steps_that_wait_go_together() -> None:
    work = take(filled(step("a"), step("b", of=1), step("c", rows=4)))
    assert sessions(work) == ["a", "b", "c"]
    assert (work.rows, work.tokens, work.is_round) == (6, 1, True)


def test_a_round_has_a_limit_and_the_rest_comes_next() -> None:
    scheduler = filled(*[step(index) for index in range(MAX_ROWS + 3)])
    assert len(take(scheduler).jobs) == MAX_ROWS
    assert sessions(take(scheduler)) == list(range(MAX_ROWS, MAX_ROWS + 3))


def test_a_step_of_more_rows_than_a_round_has_goes_alone() -> None:
    scheduler = filled(step("wide", rows=MAX_ROWS + 9), step("a"))
    assert sessions(take(scheduler)) == ["wide"]
    assert sessions(take(scheduler)) == ["a"]


def test_a_prompt_alone_goes_in_large_chunks() -> None:
    scheduler = filled(prompt("a", 2 * MAX_CHUNK + 5))
    assert [take(scheduler).tokens for _ in range(3)] == [MAX_CHUNK, MAX_CHUNK, 5]
    assert scheduler.next(0.0) is None


def test_a_prompt_of_many_rows_has_fewer_positions_a_chunk() -> None:
    assert take(filled(prompt("a", 100, rows=64))).tokens == 2
    assert take(filled(prompt("a", 100, rows=1000))).tokens == 1


def test_chunks_and_rounds_alternate_and_a_chunk_is_as_much_work_as_a_round() -> None:
    scheduler = filled(prompt("long", 1000), *[step(index, of=1) for index in range(20)])
    kinds = []
    for _ in range(6):
        work = take(scheduler)
        kinds.append(work.is_round)
        if work.is_round:
            for job in work.jobs:
                scheduler.add(step(job.session, of=1), 0.0)
        else:
            assert work.tokens == 20
    assert kinds == [True, False, True, False, True, False]


def test_a_prompt_that_comes_while_others_decode_is_cut_small() -> None:
    scheduler = filled(step("a"))
    take(scheduler)
    scheduler.add(prompt("long", 1000), 0.0)
    chunks = [take(scheduler).tokens for _ in range(QUIET_TURNS + 1)]
    assert chunks == [MIN_CHUNK] * QUIET_TURNS + [MAX_CHUNK]


def test_prompts_take_turns_by_peer_and_then_by_session() -> None:
    scheduler = filled(prompt("a1", 999, 1), prompt("a2", 999, 1), prompt("b", 999, 2))
    order = [sessions(take(scheduler))[0] for _ in range(8)]
    assert order == ["a1", "b", "a2", "b", "a1", "b", "a2", "b"]


def test_the_rest_of_a_prompt_may_be_a_step() -> None:
    scheduler = filled(prompt("a", MAX_CHUNK + 1))
    take(scheduler)
    work = take(scheduler)
    assert (work.tokens, work.is_round) == (1, True)


def test_what_is_discarded_never_runs() -> None:
    jobs = [step("a"), step("b"), prompt("c", 9)]
    scheduler = filled(*jobs)
    for job in jobs:
        scheduler.discard(job)
        scheduler.discard(job)
    assert scheduler.next(0.0) is None


# --- fairness -------------------------------------------------------------------------------------


def test_a_peer_with_many_sessions_gets_no_more_turns_than_one_with_one() -> None:
    """60 sessions of one peer against one of each of 40 others: each gets its round's turn."""
    crowd = [step(("crowd", index), of=0) for index in range(60)]
    others = [step(("other", index), of=1 + index) for index in range(40)]
    scheduler = filled(*crowd, *others)
    turns: Counter[int] = Counter()
    for _ in range(50):
        for job in take(scheduler).jobs:
            assert job.peer is not None
            turns[job.peer.data[3]] += 1
            scheduler.add(Job(job.session, job.peer, 1, 1), 0.0)
    assert max(turns.values()) - min(turns.values()) <= 2


@given(st.integers(0, 2**32), st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_while_one_waits_every_peer_has_at_most_its_turns(seed: int, sizes: list[int]) -> None:
    """``sizes`` are each peer's sessions; they come back at once or late, and prompts are among them."""
    dice = random.Random(seed)
    scheduler: Scheduler[Job] = Scheduler()
    waiting: dict[Job, tuple[int, int]] = {}  # rounds and chunks before each
    away = [(of, number) for of, size in enumerate(sizes) for number in range(size)]
    peers = len(sizes)
    for _ in range(120):
        for session in [session for session in away if dice.random() < 0.8]:
            away.remove(session)
            tokens = dice.randint(2, 300) if dice.random() < 0.1 else 1
            job = Job(session, peer(session[0]), 1, tokens)
            waiting[job] = (0, 0)
            scheduler.add(job, 0.0)
        work = scheduler.next(0.0)
        if work is None:
            continue
        for job, (rounds, chunks) in waiting.items():
            waiting[job] = (rounds + work.is_round, chunks + (not work.is_round))
        scheduler.done(work, 0.0)
        for job in work.jobs:
            rounds, chunks = waiting.pop(job)
            own = sizes[int(job.session[0])]  # type: ignore[index]
            if work.is_round:
                assert rounds <= -(-peers * own // MAX_ROWS) + 1
                assert chunks <= rounds
            else:
                assert chunks <= peers * own
            if job.tokens:
                waiting[job] = (0, 0)
                scheduler.add(job, 0.0)
            else:
                away.append(job.session)  # type: ignore[arg-type]


# --- holding --------------------------------------------------------------------------------------


def in_lockstep(away: float, seconds: float = 1.0) -> tuple[Scheduler[Job], float]:
    """Two sessions that twice went together and came back after ``away``; the time of the second end."""
    scheduler = filled(step("a"), step("b"))
    now = 0.0
    for _ in range(2):
        take(scheduler, now, seconds)
        now += seconds + away
        for session in "ab":
            scheduler.add(step(session), now)
    take(scheduler, now, seconds)
    return scheduler, now + seconds


def test_a_session_alone_is_never_held() -> None:
    scheduler = filled(step("a"))
    for now in range(5):
        assert scheduler.hold(now) == 0
        take(scheduler, now, 0.5)
        scheduler.add(step("a"), now + 0.6)


def test_the_first_one_back_is_held_for_the_other() -> None:
    scheduler, now = in_lockstep(away=0.1)
    scheduler.add(step("a"), now + 0.1)
    assert 0 < scheduler.hold(now + 0.1) <= 0.1
    scheduler.add(step("b"), now + 0.12)
    assert scheduler.hold(now + 0.12) == 0
    assert sessions(take(scheduler, now + 0.12)) == ["a", "b"]


def test_one_who_does_not_come_back_is_not_waited_for_long() -> None:
    scheduler, now = in_lockstep(away=0.1)
    scheduler.add(step("a"), now + 0.1)
    assert scheduler.hold(now + 0.16) == 0
    scheduler.forget("b")
    assert scheduler.hold(now + 0.1) == 0


def test_nobody_is_held_for_one_who_thinks_long() -> None:
    scheduler, now = in_lockstep(away=0.9)
    scheduler.add(step("a"), now + 0.01)
    assert scheduler.hold(now + 0.01) == 0


def test_holding_ends_with_its_share_of_a_round() -> None:
    scheduler, now = in_lockstep(away=0.1)
    scheduler.add(step("a"), now)
    held = scheduler.hold(now)
    assert 0 < held <= HOLD_SHARE
    assert scheduler.hold(now + HOLD_SHARE) == 0


def test_nobody_is_held_beside_a_prompt() -> None:
    scheduler, now = in_lockstep(away=0.1)
    scheduler.add(step("a"), now + 0.1)
    scheduler.add(prompt("c", 50), now + 0.1)
    assert scheduler.hold(now + 0.1) == 0


def test_peers_that_are_gone_are_not_remembered_for_ever() -> None:
    scheduler: Scheduler[Job] = Scheduler()
    for number in range(3 * MAX_PEERS):
        scheduler.add(step(number, of=number), 0.0)
        take(scheduler)
        scheduler.forget(number)
    assert len(scheduler._steps._peer_turns) <= MAX_PEERS + 1
    assert scheduler._absent == scheduler._steps._session_turns == {}


def test_peers_that_come_anew_do_not_go_before_one_who_waits() -> None:
    scheduler = filled(*[step(index, of=index) for index in range(MAX_ROWS + 1)])
    take(scheduler)
    for number in range(100, 200):
        scheduler.add(step(number, of=number), 0.0)
    assert sessions(take(scheduler))[0] == MAX_ROWS

"""When a server that has said OFFLINE may go."""

from __future__ import annotations

import asyncio

from kwaainet.node.draining import POLL, Drain
from kwaainet.testing.clock import now, run


class Sessions:
    def __init__(self, count: int = 0) -> None:
        self.count = count

    def __call__(self) -> bool:
        return self.count > 0


async def _seconds(drain: Drain, limit: float) -> float:
    started = now()
    drain.limit(limit)
    await drain.wait()
    return now() - started


def test_nobody_is_served_and_everybody_has_heard() -> None:
    assert 65 <= run(_seconds(Drain(65, Sessions(0)), 90)) <= 65 + POLL


def test_a_session_is_served_to_its_end() -> None:
    async def main() -> float:
        sessions = Sessions(1)
        asyncio.get_running_loop().call_later(80, setattr, sessions, "count", 0)
        return await _seconds(Drain(65, sessions), 90)

    assert 80 <= run(main()) <= 80 + POLL


def test_a_session_that_ends_early_does_not_shorten_what_others_need() -> None:
    async def main() -> float:
        sessions = Sessions(1)
        asyncio.get_running_loop().call_later(5, setattr, sessions, "count", 0)
        return await _seconds(Drain(65, sessions), 90)

    assert 65 <= run(main()) <= 65 + POLL


def test_a_session_without_end_does_not_hold_it_up_for_ever() -> None:
    assert run(_seconds(Drain(65, Sessions(1)), 90)) == 90


def test_no_time_at_all() -> None:
    assert run(_seconds(Drain(65, Sessions(1)), 0)) == 0


def test_hurried_it_ends_sooner_and_never_later() -> None:
    async def main() -> float:
        drain = Drain(65, Sessions(1))
        loop = asyncio.get_running_loop()
        loop.call_later(10, drain.limit, 5)
        loop.call_later(11, drain.limit, 500)
        return await _seconds(drain, 90)

    assert 15 <= run(main()) <= 15 + POLL


def test_it_says_how_much_longer_it_may_take() -> None:
    async def main() -> None:
        drain = Drain(65, Sessions(1))
        assert drain.seconds_left is None
        waiting = asyncio.ensure_future(_seconds(drain, 90))
        await asyncio.sleep(30)
        assert drain.seconds_left == 60
        await waiting
        assert drain.seconds_left is None

    run(main())

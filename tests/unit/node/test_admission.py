import asyncio
from contextlib import AsyncExitStack

import pytest

from kwaainet.errors import CapacityError, Unavailable
from kwaainet.node.admission import Admission
from kwaainet.testing.clock import now, run
from kwaainet.types import PeerId

ONE, OTHER = PeerId(b"\0\1a"), PeerId(b"\0\1b")


async def hold(admission: Admission, tokens: int, seconds: float, order: list[int] | None = None) -> float:
    """Hold tokens for a while; returns how long they were waited for."""
    started = now()
    async with admission.admit(tokens, 100.0):
        waited = now() - started
        if order is not None:
            order.append(tokens)
        await asyncio.sleep(seconds)
    return waited


def test_what_is_held_comes_back() -> None:
    async def main() -> None:
        admission = Admission(10, 4)
        async with admission.admit(7, 0.0):
            assert (admission.tokens_left, admission.holders) == (3, 1)
        assert (admission.tokens_left, admission.holders) == (10, 0)

    run(main())


def test_what_is_held_comes_back_from_a_failure() -> None:
    async def main() -> None:
        admission = Admission(10, 4)
        with pytest.raises(ValueError, match="mine"):
            async with admission.admit(7, 0.0):
                raise ValueError("mine")
        assert (admission.tokens_left, admission.holders) == (10, 0)

    run(main())


def test_more_than_there_is_will_never_be_had() -> None:
    async def main() -> None:
        with pytest.raises(CapacityError, match=r"11 tokens .* has 10 in all"):
            async with Admission(10, 4).admit(11, 100.0):
                pass

    run(main())


def test_a_full_cache_refuses_after_the_timeout_and_says_why() -> None:
    async def main() -> None:
        admission = Admission(10, 4)
        async with admission.admit(8, 0.0):
            started = now()
            with pytest.raises(CapacityError, match=r"cache is full: 3 tokens .* in 2.5 s \(2 of 10"):
                async with admission.admit(3, 2.5):
                    pass
            assert now() - started == 2.5
            with pytest.raises(CapacityError, match="in 0 s"):
                async with admission.admit(3, 0.0):
                    pass
        assert (admission.tokens_left, admission.holders) == (10, 0)

    run(main())


def test_too_many_holders_are_refused() -> None:
    async def main() -> None:
        admission = Admission(10, 2)
        async with AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(admission.admit(1, 0.0))
            with pytest.raises(CapacityError, match="all 2 sessions are taken"):
                await stack.enter_async_context(admission.admit(1, 1.0))

    run(main())


def test_waiting_ends_when_there_is_room() -> None:
    async def main() -> None:
        admission = Admission(10, 4)
        assert await asyncio.gather(hold(admission, 8, 5), hold(admission, 8, 5)) == [0, 5]

    run(main())


def test_first_come_first_served_so_that_nobody_starves() -> None:
    async def main() -> None:
        admission, order = Admission(10, 9), list[int]()
        await asyncio.gather(
            hold(admission, 6, 5, order), hold(admission, 10, 5, order), hold(admission, 1, 5, order)
        )
        assert order == [6, 10, 1]

    run(main())


def test_one_who_stops_waiting_holds_nobody_up() -> None:
    async def main() -> None:
        admission = Admission(10, 4)
        async with admission.admit(5, 0.0):
            waiting = asyncio.ensure_future(hold(admission, 10, 1))
            behind = asyncio.ensure_future(hold(admission, 5, 1))
            await asyncio.sleep(1)
            assert not behind.done()
            waiting.cancel()
            assert await behind == 1
        assert (admission.tokens_left, admission.holders) == (10, 0)

    run(main())


def test_one_cancelled_at_the_moment_of_its_grant_gives_it_back() -> None:
    async def main() -> None:
        admission = Admission(10, 4)
        async with admission.admit(10, 0.0):
            waiting = asyncio.ensure_future(hold(admission, 10, 1))
            await asyncio.sleep(1)
        waiting.cancel()  # its turn has come, its task has not run yet
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (admission.tokens_left, admission.holders) == (10, 0)

    run(main())


def test_one_cancelled_before_its_turn_is_passed_over() -> None:
    async def main() -> None:
        admission = Admission(10, 4)
        async with admission.admit(10, 0.0):
            waiting = asyncio.ensure_future(hold(admission, 10, 1))
            await asyncio.sleep(1)
            waiting.cancel()  # and the room comes free before its task has run
        assert (admission.tokens_left, admission.holders) == (10, 0)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await hold(admission, 10, 1) == 0

    run(main())


# --- peers ----------------------------------------------------------------------------------------


async def sit(admission: Admission, tokens: int, peer: PeerId, told: list[str]) -> None:
    """Hold and never use, until told to go."""
    async with admission.admit(tokens, 100.0, peer) as grant:
        gone = asyncio.Event()

        def go(error: Unavailable) -> None:
            told.append(str(error))
            gone.set()

        grant.on_revoked = go
        await gone.wait()


def test_one_peer_may_have_half_of_the_places_and_is_told_so_at_once() -> None:
    async def main() -> None:
        admission = Admission(100, 8)
        async with AsyncExitStack() as stack:
            for _ in range(4):
                await stack.enter_async_context(admission.admit(1, 0.0, ONE))
            started = now()
            with pytest.raises(Unavailable, match="this peer has 4 sessions here, the most that one peer"):
                await stack.enter_async_context(admission.admit(1, 50.0, ONE))
            assert now() == started
            await stack.enter_async_context(admission.admit(1, 0.0, OTHER))
        async with admission.admit(1, 0.0, ONE):
            pass
        assert not admission._of_peer

    run(main())


def test_those_who_wait_count_as_the_peers_too() -> None:
    async def main() -> None:
        admission = Admission(10, 4)
        async with admission.admit(10, 0.0, OTHER):
            waiting = [asyncio.ensure_future(sit(admission, 1, ONE, [])) for _ in range(2)]
            await asyncio.sleep(1)
            with pytest.raises(Unavailable, match="this peer has 2 sessions"):
                async with admission.admit(1, 50.0, ONE):
                    pass
            for task in waiting:
                task.cancel()

    run(main())


def test_an_idle_holder_gives_way_to_a_peer_that_holds_less() -> None:
    async def main() -> None:
        admission = Admission(10, 8, idle_limit=30.0)
        told: list[str] = []
        idle = [asyncio.ensure_future(sit(admission, 5, ONE, told)) for _ in range(2)]
        await asyncio.sleep(5)
        started = now()
        async with admission.admit(4, 100.0, OTHER):
            assert now() - started == pytest.approx(25)
        assert len(told) == 1, "only as many as are needed"
        assert "idle for 30 s while others wait" in told[0]
        assert sum(task.done() for task in idle) == 1
        for task in idle:
            task.cancel()

    run(main())


def test_as_many_idle_holders_go_as_are_needed() -> None:
    async def main() -> None:
        admission = Admission(10, 8, idle_limit=30.0)
        told: list[str] = []
        idle = [asyncio.ensure_future(sit(admission, 4, ONE, told)) for _ in range(2)]
        await asyncio.sleep(50)
        started = now()
        async with admission.admit(9, 100.0, OTHER):
            assert now() - started < 5
        await asyncio.gather(*idle)

    run(main())


def test_who_is_in_use_or_has_just_been_is_not_idle() -> None:
    async def main() -> None:
        admission = Admission(10, 8, idle_limit=30.0)

        async def work() -> list[str]:
            told: list[str] = []
            async with admission.admit(10, 0.0, ONE) as grant:
                grant.on_revoked = lambda error: told.append(str(error))
                for _ in range(3):
                    with grant.in_use():
                        await asyncio.sleep(100)
                    await asyncio.sleep(20)
            return told

        working = asyncio.ensure_future(work())
        await asyncio.sleep(1)
        with pytest.raises(Unavailable, match="cache is full"):
            async with admission.admit(1, 300.0, OTHER):
                pass
        assert await working == []

    run(main())


def test_nobody_pushes_out_the_idle_by_holding_more() -> None:
    async def main() -> None:
        admission = Admission(10, 8, idle_limit=30.0)
        told: list[str] = []
        quiet = asyncio.ensure_future(sit(admission, 2, ONE, told))
        greedy = asyncio.ensure_future(sit(admission, 6, OTHER, []))
        await asyncio.sleep(100)
        with pytest.raises(Unavailable, match="cache is full"):
            async with admission.admit(4, 100.0, OTHER):
                pass
        assert told == []
        for task in (quiet, greedy):
            task.cancel()

    run(main())

import asyncio
from contextlib import AsyncExitStack

import pytest

from kwaainet.errors import CapacityError
from kwaainet.node.admission import Admission
from kwaainet.testing.clock import now, run


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

import asyncio
import os
import signal

import pytest

from kwaainet.native.cli.signals import drained, leave_in_order, until_signalled


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_and_the_handlers(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    async def main() -> None:
        waiting = asyncio.ensure_future(until_signalled())
        await asyncio.sleep(0)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(waiting, 60)

    asyncio.run(main())
    assert signal.getsignal(number) in (before, signal.SIG_DFL)


def test_leaving_takes_its_time_unless_a_signal_hurries_it() -> None:
    async def main(signalled: bool) -> bool:
        left, hurried = asyncio.Event(), False

        async def leave() -> None:
            await asyncio.wait_for(left.wait(), 60)

        async def hurry() -> None:
            nonlocal hurried
            hurried = True
            left.set()

        leaving = asyncio.ensure_future(leave_in_order(leave(), hurry))
        await asyncio.sleep(0.01)
        assert not leaving.done()
        if signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            left.set()
        await leaving
        return hurried

    assert asyncio.run(main(True)) is True
    assert asyncio.run(main(False)) is False


def test_a_drain_ends_by_itself_or_by_a_second_signal() -> None:
    async def main() -> None:
        await drained(asyncio.sleep(0))
        endless = asyncio.ensure_future(drained(asyncio.Event().wait()))
        await asyncio.sleep(0.01)
        assert not endless.done()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(endless, 60)

    asyncio.run(main())

import asyncio
import os
import signal

import pytest

from kwaainet.native.cli.signals import until_signalled


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_and_the_handlers(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    async def main() -> None:
        waiting = asyncio.ensure_future(until_signalled())
        await asyncio.sleep(0)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(waiting, 5)

    asyncio.run(main())
    assert signal.getsignal(number) in (before, signal.SIG_DFL)

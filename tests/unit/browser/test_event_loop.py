"""Pyodide's loop raises for a timer of the past; asyncio's rings at once."""

import asyncio
from typing import Any

import pytest

from kwaainet.browser.event_loop import allow_the_past


class Strict(asyncio.SelectorEventLoop):
    """Refuses the past as Pyodide 314.0.7's WebLoop does."""

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        if when < self.time():
            raise ValueError("Can't schedule in the past")
        return super().call_at(when, callback, *args, context=context)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.001])
def test_a_timeout_that_has_passed_already_is_a_timeout(seconds: float) -> None:
    async def late() -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        async with asyncio.timeout_at(deadline):
            await asyncio.sleep(60)

    loop = Strict()
    try:
        with pytest.raises(ValueError, match="past"):
            loop.call_at(loop.time() - 1, print)
        allow_the_past(loop)
        with pytest.raises(TimeoutError):
            loop.run_until_complete(late())
    finally:
        loop.close()

"""A clock that is set is noticed, one that is slewed is not."""

from __future__ import annotations

import asyncio
import logging

import pytest

from kwaainet.native.cli.clock import following_the_clock
from kwaainet.testing.clock import now, run


def test_what_is_ahead_is_told_and_what_is_back_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    error, told = 0.0, list[float]()

    async def set_ahead(seconds: float) -> None:
        told.append(seconds)

    async def main() -> None:
        nonlocal error
        async with following_the_clock(set_ahead, lambda: now() + error, now):
            for step in (0.0, 1.0, 3600.0, 0.0, -7200.0, 2.0):
                error += step
                await asyncio.sleep(2)
        error += 3600
        await asyncio.sleep(5)

    with caplog.at_level(logging.WARNING):
        run(main())
    assert told == [pytest.approx(3600)], "and nothing once it is over"
    assert [record.message for record in caplog.records] == [
        "the clock of this machine was set +3600 s",
        "the clock of this machine was set -7200 s",
    ]

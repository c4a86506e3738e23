"""The Engine port's compliance suite, run against every adapter that CPython can run."""

import asyncio

import pytest

from kwaainet.native.engine import NativeEngine
from kwaainet.testing import clock
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.engine_compliance import CHECKS, check


@pytest.mark.parametrize("name", CHECKS)
def test_native_engine(name: str) -> None:
    asyncio.run(check(name, lambda: NativeEngine(threads=1)))


@pytest.mark.parametrize("name", CHECKS)
def test_numpy_engine(name: str) -> None:
    clock.run(check(name, NumpyEngine))

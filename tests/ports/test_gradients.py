"""The Gradients port's compliance suite, run against every adapter that CPython can run."""

import asyncio

import pytest

from kwaainet.native.gradients import NativeGradients
from kwaainet.testing import clock
from kwaainet.testing.gradients import NumpyGradients
from kwaainet.testing.gradients_compliance import CHECKS, check


@pytest.mark.parametrize("name", CHECKS)
def test_native_gradients(name: str) -> None:
    asyncio.run(check(name, lambda config: NativeGradients(threads=1)))


@pytest.mark.parametrize("name", CHECKS)
def test_numpy_gradients(name: str) -> None:
    clock.run(check(name, NumpyGradients))

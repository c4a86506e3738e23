"""What the engines' checks are built on can itself fail."""

from __future__ import annotations

import numpy as np
import pytest

from kwaainet.errors import CapacityError, EngineError
from kwaainet.testing import clock
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.span import (
    TOLERANCE,
    assert_close,
    fill,
    hidden_states,
    in_steps,
    outputs_of,
    refused,
)
from kwaainet.types import BlockRange


@pytest.mark.parametrize(
    "found",
    [
        np.ones((1, 2), np.float32) + np.float32(3 * TOLERANCE),
        np.ones((2, 1), np.float32),
        np.ones((1, 2), np.float64),
        np.full((1, 2), np.nan, np.float32),
    ],
)
def test_what_is_not_close_is_refused(found: np.ndarray) -> None:
    with pytest.raises(AssertionError):
        assert_close(found, np.ones((1, 2), np.float32))


def test_a_call_must_raise_the_error_expected() -> None:
    async def fine() -> int:
        return 3

    async def other() -> int:
        raise CapacityError("full")

    async def main() -> None:
        await refused(CapacityError, other())
        with pytest.raises(AssertionError, match="expected EngineError, got the result 3"):
            await refused(EngineError, fine())
        with pytest.raises(CapacityError):
            await refused(EngineError, other())

    clock.run(main())


def test_parts_of_the_span_are_filled_with_their_own_weights() -> None:
    async def main() -> None:
        whole = await fill(NumpyEngine())
        hidden = hidden_states(1, 4)
        states = hidden
        for blocks in (BlockRange(0, 2), BlockRange(2, 3)):
            states = await outputs_of(await fill(NumpyEngine(), only=blocks), states)
        assert_close(states, await outputs_of(whole, hidden))
        cache = await whole.open_cache(1, 4)
        assert_close(await in_steps(whole, cache, hidden, 2, 0), states)

    clock.run(main())

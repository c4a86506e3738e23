"""The suite finds what it is there to find."""

from collections.abc import Mapping

import numpy as np
import pytest

from kwaainet.ports import Floats
from kwaainet.testing.clock import run
from kwaainet.testing.gradients import NumpyGradients
from kwaainet.testing.gradients_compliance import CHECKS, check


class WrongScale(NumpyGradients):
    async def backward(
        self, block: int, hidden: Floats, grad: Floats, tables: Mapping[str, Floats]
    ) -> Floats:
        return await super().backward(block, hidden, grad, tables) * np.float32(1.0001)


class NotCausal(NumpyGradients):
    async def forward(self, block: int, hidden: Floats, tables: Mapping[str, Floats]) -> Floats:
        return await super().forward(block, hidden, {**tables, "mask": tables["mask"] * 0})


class OneBlockForAll(NumpyGradients):
    async def forward(self, block: int, hidden: Floats, tables: Mapping[str, Floats]) -> Floats:
        return await super().forward(0, hidden, tables)


class Overwrites(NumpyGradients):
    async def forward(self, block: int, hidden: Floats, tables: Mapping[str, Floats]) -> Floats:
        result = await super().forward(block, hidden, tables)
        hidden[:] = result
        return result


class NeverForgets(NumpyGradients):
    async def drop_block(self, block: int) -> None:
        pass


class StaysOpen(NumpyGradients):
    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (WrongScale, "agrees_grouped"),
        (NotCausal, "agrees_one_head_each"),
        (OneBlockForAll, "blocks_are_told_apart"),
        (Overwrites, "what_is_given_stays_as_it_was"),
        (NeverForgets, "weights_can_be_replaced_and_dropped"),
        (StaysOpen, "closing_forgets_and_it_can_be_built_again"),
    ],
)
def test_a_broken_adapter_fails(broken: type[NumpyGradients], name: str) -> None:
    assert name in CHECKS
    with pytest.raises(AssertionError):
        run(check(name, broken))

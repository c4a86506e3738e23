"""What is particular to onnxruntime; the port's contract is held by ``tests/ports/test_gradients.py``."""

import asyncio

import numpy as np
import pytest

from kwaainet.errors import EngineError
from kwaainet.inference.llama_gradients import backward_graph, forward_graph, tables
from kwaainet.native.gradients import NativeGradients
from kwaainet.testing.gradients_compliance import states, weights
from kwaainet.testing.model import TINY


def test_a_graph_that_is_none_is_an_engine_error() -> None:
    async def main() -> None:
        with pytest.raises(EngineError, match="cannot build the gradients"):
            await NativeGradients().build(b"junk", b"junk")

    asyncio.run(main())


def test_a_run_that_fails_is_an_engine_error_and_the_next_one_works() -> None:
    async def main() -> None:
        ours, x = NativeGradients(1), states(TINY, 1, 4)
        await ours.build(forward_graph(TINY), backward_graph(TINY))
        await ours.add_block(0, weights(TINY, 0))
        with pytest.raises(EngineError, match="cannot run the gradients"):
            await ours.backward(0, x, states(TINY, 1, 5), tables(TINY, 4))
        assert np.isfinite(await ours.backward(0, x, x, tables(TINY, 4))).all()
        await ours.close()

    asyncio.run(main())


def test_the_event_loop_goes_on_while_it_computes() -> None:
    async def main() -> None:
        ours, x, turns = NativeGradients(1), states(TINY, 8, 90), 0
        await ours.build(forward_graph(TINY), backward_graph(TINY))
        await ours.add_block(0, weights(TINY, 0))
        computing = asyncio.ensure_future(ours.backward(0, x, x, tables(TINY, 90)))
        while not computing.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns > 1
        await ours.close()

    asyncio.run(main())

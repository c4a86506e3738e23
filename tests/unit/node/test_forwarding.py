"""A forwarded span: what becomes of each command, what is admitted, and what is counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from kwaainet.errors import CapacityError, StreamReset, Unreachable
from kwaainet.node import forwarding as module
from kwaainet.node.admission import Admission
from kwaainet.node.forwarding import ForwardedSpan, Session
from kwaainet.ports import Floats
from kwaainet.swarm.routing import Hop
from kwaainet.testing.clock import run
from kwaainet.types import BlockRange, PeerId

SERVED = BlockRange(3, 8)
PEER = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(32))


class Elsewhere:
    """Sessions that note what is asked of them and answer one more than they get."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.failovers = 0
        self.hops = [Hop(PEER, BlockRange(4, 6))]
        self.failure: Exception | None = None

    @asynccontextmanager
    async def open(
        self, blocks: BlockRange, max_length: int, batch: int, request_id: str
    ) -> AsyncIterator[Session]:
        if self.failure:
            raise self.failure
        self.told.append((str(blocks), max_length, batch, *filter(None, [request_id])))
        yield self
        self.told.append("closed")

    async def step(self, hidden: Floats, rows: Sequence[int] | None = None) -> Floats:
        self.told.append((hidden.shape, rows))
        return hidden + 1

    async def rollback(self, length: int) -> None:
        self.told.append(length)


def states(batch: int, tokens: int) -> Floats:
    return np.arange(batch * tokens * 4, dtype=np.float32).reshape(batch, tokens, 4)


def span(elsewhere: Elsewhere, tokens: int = 100) -> ForwardedSpan:
    return ForwardedSpan(elsewhere.open, SERVED, Admission(tokens, 8))


def test_every_command_reaches_the_session_in_order() -> None:
    async def main() -> None:
        elsewhere = Elsewhere()
        forwarded = span(elsewhere)
        async with forwarded.open_cache(2, 10, 1.0, BlockRange(1, 3), request_id="id") as cache:
            assert forwarded.admission.tokens_left == 80
            np.testing.assert_array_equal(await cache.run(states(2, 3)), states(2, 3) + 1)
            await cache.truncate(1)
            await cache.reorder([1, 0])
            await cache.reorder([0, 0])
            await cache.run(states(2, 1))
            await cache.run(states(2, 1))
        assert elsewhere.told == [
            ("4:6", 10, 2, "id"),
            ((2, 3, 4), None),
            1,
            ((2, 1, 4), [1, 1]),
            ((2, 1, 4), None),
            "closed",
        ]
        assert forwarded.tokens_done == 10
        assert forwarded.admission.tokens_left == 100

    run(main())


def test_a_long_prompt_goes_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STEP_BYTES", 4 * 2 * 4 * 3)

    async def main() -> None:
        elsewhere = Elsewhere()
        async with span(elsewhere).open_cache(2, 10, 1.0) as cache:
            await cache.reorder([1, 0])
            np.testing.assert_array_equal(await cache.run(states(2, 7)), states(2, 7) + 1)
            assert elsewhere.told[1:] == [((2, 3, 4), [1, 0]), ((2, 3, 4), None), ((2, 1, 4), None)]
            with pytest.raises(StreamReset, match="caller left"):
                await cache.run(states(2, 7), lambda: False)

    run(main())


def test_a_forward_is_a_session_of_its_own() -> None:
    async def main() -> None:
        elsewhere = Elsewhere()
        forwarded = span(elsewhere)
        np.testing.assert_array_equal(await forwarded.forward(states(3, 5), 1.0), states(3, 5) + 1)
        assert elsewhere.told == [("3:8", 5, 3), ((3, 5, 4), None), "closed"]
        nothing = states(1, 1)[:, :0]
        assert (await forwarded.forward(nothing, 1.0)).shape == (1, 0, 4)
        assert len(elsewhere.told) == 3

    run(main())


def test_more_than_can_be_kept_is_refused_clearly() -> None:
    async def main() -> None:
        forwarded = span(Elsewhere(), tokens=20)
        with pytest.raises(CapacityError, match="21 tokens"):
            async with forwarded.open_cache(1, 21, 1.0):
                pass
        async with forwarded.open_cache(1, 15, 1.0):
            with pytest.raises(CapacityError, match="not to be had in 1 s"):
                async with forwarded.open_cache(1, 6, 1.0):
                    pass

    run(main())


def test_a_session_nobody_can_serve_gives_its_room_back() -> None:
    async def main() -> None:
        elsewhere = Elsewhere()
        elsewhere.failure = Unreachable("no server is online for block 4")
        forwarded = span(elsewhere)
        with pytest.raises(Unreachable, match="block 4"):
            async with forwarded.open_cache(1, 15, 1.0):
                pass
        assert forwarded.admission.tokens_left == 100

    run(main())


def test_replaced_servers_are_counted_also_when_the_session_is_over() -> None:
    async def main() -> None:
        one, other = Elsewhere(), Elsewhere()
        sessions = iter([one, other])
        forwarded = ForwardedSpan(lambda *asked: next(sessions).open(*asked), SERVED, Admission(100, 8))
        async with forwarded.open_cache(1, 5, 1.0):
            one.failovers = 2
            assert forwarded.failovers == 2
            assert forwarded.in_use == {PEER: 1}
        async with forwarded.open_cache(1, 5, 1.0):
            other.failovers = 1
            assert forwarded.failovers == 3
        assert forwarded.failovers == 3
        assert forwarded.in_use == {}

    run(main())

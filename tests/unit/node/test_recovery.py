"""The order of a recovery, with hops that only note what they are sent; over real nodes: tests/swarm."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from kwaainet.errors import KwaaiNetError, RpcError, StreamReset, Unreachable
from kwaainet.inference.chain import Step
from kwaainet.inference.history import Budget, Histories
from kwaainet.node.client_options import ClientOptions
from kwaainet.node.recovery import RETRY_PAUSE, Recovery, named
from kwaainet.swarm.health import Reason
from kwaainet.swarm.routing import Hop
from kwaainet.testing.clock import now, run
from kwaainet.types import BlockRange, PeerId

STEP = Step("now", 5)


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + bytes([number]) * 32)


class FakeHop:
    """Doubles what it is sent, from ``position`` on; with ``error`` it fails at once."""

    def __init__(
        self, number: int, blocks: str, position: int = 0, error: KwaaiNetError | None = None
    ) -> None:
        self.hop = Hop(peer(number), BlockRange.parse(blocks))
        self.position, self.failure = position, error
        self.reason = None if isinstance(error, RpcError) else Reason.GONE
        self.blameless = self.closed = False
        self.replayed_in: str | None = None
        self.sent: list[tuple[int, list[float]]] = []

    def expect(self, shape: tuple[int, ...], step: Step) -> tuple[int, ...]:
        return shape

    async def send(self, hidden: np.ndarray, step: Step) -> None:
        if self.failure is not None:
            raise self.failure
        self.sent.append((step.position, hidden[0, :, 0].tolist()))
        self.last = hidden * 2

    async def close(self) -> None:
        self.closed = True


class Fakes:
    """Opener, view and watch of one recovery; ``chains`` are opened one after the other."""

    def __init__(self, *chains: Sequence[FakeHop], patience: float = 2.0) -> None:
        self.chains = list(chains)
        self.avoided: list[set[PeerId]] = []
        self.bans: list[tuple[PeerId, Reason]] = []
        self.renewals = 0
        self.spare: FakeHop | None = None
        self.histories = Histories(Budget(1 << 20))
        self.histories.at(0).append(np.arange(5, dtype=np.float32).reshape(1, 5, 1))
        fakes: Any = self
        options = ClientOptions(replay_tokens=2, patience=patience)
        self.recovery = Recovery(
            fakes, fakes, fakes, self.histories, options, fakes, now=now, new_id=iter("abcdefghij").__next__
        )

    async def open(self, blocks: BlockRange, avoid: set[PeerId]) -> Sequence[FakeHop]:
        self.avoided.append(set(avoid))
        await asyncio.sleep(0)
        if not self.chains:
            raise Unreachable("nobody")
        return self.chains.pop(0)

    async def take(self, hop: Hop) -> FakeHop | None:
        return self.spare

    def failed(self, peer: PeerId, reason: Reason, text: str) -> None:
        self.bans.append((peer, reason))

    async def renew(self) -> None:
        self.renewals += 1

    async def answer(self, live: FakeHop, answer: object, tokens: int) -> np.ndarray:
        return live.last

    async def replace(self, lost: FakeHop) -> Any:
        whom: Any = lost
        return await self.recovery.replace(whom, STEP)


LOST = (9, "0:4")


def test_the_history_goes_through_all_new_hops_in_pieces() -> None:
    async def main() -> None:
        one, other = FakeHop(1, "0:2"), FakeHop(2, "2:4")
        fakes = Fakes([one, other])
        assert await fakes.replace(FakeHop(*LOST)) == [one, other]
        assert one.sent == [(0, [0, 1]), (2, [2, 3]), (4, [4])]
        assert other.sent == [(0, [0, 2]), (2, [4, 6]), (4, [8])]
        assert one.replayed_in == other.replayed_in == "now"
        assert [float(v) for piece in fakes.histories.at(2).pieces(0, 5, 9) for v in piece.ravel()] == [
            0,
            2,
            4,
            6,
            8,
        ]
        assert fakes.avoided == [{peer(9)}]

    run(main())


def test_a_spare_is_taken_first_and_given_what_it_lacks() -> None:
    async def main() -> None:
        fakes = Fakes([FakeHop(1, "0:4")])
        spare = fakes.spare = FakeHop(2, "0:4", position=3)
        assert await fakes.replace(FakeHop(*LOST)) == [spare]
        assert len(fakes.chains) == 1
        assert spare.sent == [(3, [3, 4])]

    run(main())


def test_replacements_that_fail_are_avoided_and_closed() -> None:
    async def main() -> None:
        first = [FakeHop(1, "0:2"), FakeHop(2, "2:4", error=StreamReset("gone too"))]
        last = FakeHop(3, "0:4")
        fakes = Fakes(first, [last])
        assert await fakes.replace(FakeHop(*LOST)) == [last]
        assert all(hop.closed for hop in first)
        assert fakes.avoided == [{peer(9)}, {peer(9), peer(2)}]
        assert fakes.bans == [(peer(2), Reason.GONE)]

    run(main())


def test_an_error_that_a_replacement_reports_is_told_with_its_name() -> None:
    async def main() -> None:
        fakes = Fakes([FakeHop(1, "0:4", error=RpcError("no such block"))], [FakeHop(2, "0:4")])
        with pytest.raises(RpcError, match=f"server {peer(1)} .blocks 0:4. failed: no such block"):
            await fakes.replace(FakeHop(*LOST))
        assert len(fakes.chains) == 1

    run(main())


def test_when_nobody_else_is_there_the_lost_one_is_tried_at_once_and_then_now_and_again() -> None:
    async def main() -> None:
        fakes = Fakes(patience=2.0)
        started = now()
        with pytest.raises(Unreachable, match="nobody"):
            await fakes.replace(FakeHop(*LOST))
        assert fakes.avoided[:3] == [{peer(9)}, set(), set()]
        assert now() - started == pytest.approx(2.0, abs=RETRY_PAUSE)
        assert fakes.renewals == len(fakes.avoided) - 2

    run(main())


def test_a_hop_given_up_without_blame_may_be_its_own_replacement() -> None:
    async def main() -> None:
        lost = FakeHop(*LOST)
        lost.blameless = True
        fakes = Fakes([FakeHop(9, "0:4")])
        await fakes.replace(lost)
        assert fakes.avoided == [set()]

    run(main())


def test_named_keeps_the_kind() -> None:
    error = named(Hop(peer(1), BlockRange(0, 2)), StreamReset("x"), "; y")
    assert isinstance(error, StreamReset)
    assert str(error) == f"server {peer(1)} (blocks 0:2) failed: x; y"

"""What a spare is given and when; over real nodes: tests/swarm/test_failover.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from kwaainet.errors import KwaaiNetError, StreamReset, Unreachable
from kwaainet.inference.chain import Step
from kwaainet.inference.history import Budget, Histories
from kwaainet.node.client_options import ClientOptions
from kwaainet.node.spares import LAG, LOOK_PAUSE, Spares
from kwaainet.swarm.health import Reason
from kwaainet.swarm.routing import Hop
from kwaainet.testing.clock import run
from kwaainet.types import BlockRange, PeerId


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + bytes([number]) * 32)


HOP = Hop(peer(9), BlockRange(0, 2))


class FakeHop:
    def __init__(self, number: int = 1, error: KwaaiNetError | None = None) -> None:
        self.hop = Hop(peer(number), HOP.blocks)
        self.error, self.failure = error, None
        self.reason = Reason.GONE
        self.blameless = self.closed = False
        self.position = 0
        self.sent: list[tuple[int, list[float]]] = []

    def expect(self, shape: tuple[int, ...], step: Step) -> None:
        self.position = step.position + shape[1]

    async def send(self, hidden: np.ndarray, step: Step) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append((step.position, hidden[0, :, 0].tolist()))

    def retire(self, why: str) -> None:
        self.blameless, self.error = True, StreamReset(why)

    async def close(self) -> None:
        self.closed = True


class Fakes:
    """Opener, view and watch; ``found`` are opened one after the other."""

    def __init__(self, *found: Sequence[FakeHop]) -> None:
        self.found = list(found)
        self.looks = 0
        self.bans: list[PeerId] = []
        self.rolls_back = True
        self.time = 0.0
        self.histories = Histories(Budget(1 << 20))
        fakes: Any = self
        options = ClientOptions(replay_tokens=64)
        ids = iter(range(1000))
        self.spares = Spares(
            fakes,
            fakes,
            fakes,
            self.histories,
            options,
            now=lambda: self.time,
            new_id=lambda: str(next(ids)),
        )

    def grow(self, length: int) -> None:
        history = self.histories.at(0)
        more = np.arange(history.length, length, dtype=np.float32).reshape(1, -1, 1)
        history.append(more)

    async def open(self, blocks: BlockRange, avoid: set[PeerId]) -> Sequence[FakeHop]:
        assert avoid == {HOP.peer}
        self.looks += 1
        if not self.found:
            raise Unreachable("nobody")
        return self.found.pop(0)

    def can_replace(self, hop: Hop) -> bool:
        return True

    def can_roll_back(self, peer: PeerId) -> bool:
        return self.rolls_back

    def failed(self, peer: PeerId, reason: Reason, text: str) -> None:
        self.bans.append(peer)

    async def answer(self, live: FakeHop, answer: object, tokens: int) -> None:
        return None


def sparing(test: Callable[[Fakes, FakeHop], Awaitable[None]]) -> None:
    async def main() -> None:
        live = FakeHop()
        fakes = Fakes([live])
        fakes.grow(10)
        await fakes.spares.tend([HOP], 10)
        await test(fakes, live)
        await fakes.spares.close()

    run(main())


def test_a_spare_is_fed_with_a_lag() -> None:
    async def test(fakes: Fakes, live: FakeHop) -> None:
        assert live.sent == [(0, list(range(10)))]
        fakes.grow(10 + LAG)
        await fakes.spares.tend([HOP], 9 + LAG)
        assert len(live.sent) == 1
        await fakes.spares.tend([HOP], 10 + LAG)
        assert live.sent[1] == (10, list(range(10, 10 + LAG)))
        assert fakes.looks == 1

    sparing(test)


def test_a_spare_is_taken_where_its_history_ends() -> None:
    async def test(fakes: Fakes, live: FakeHop) -> None:
        assert await fakes.spares.take(HOP) is live  # type: ignore[comparison-overlap]
        assert live.position == 10
        assert await fakes.spares.take(HOP) is None

    sparing(test)


def test_what_was_rolled_back_or_reordered_is_fed_again() -> None:
    async def test(fakes: Fakes, live: FakeHop) -> None:
        fakes.spares.before(Step("a", 12))
        fakes.spares.before(Step("b", 4))
        fakes.histories.at(0).truncate(4)
        fakes.grow(4 + LAG)
        await fakes.spares.tend([HOP], 4 + LAG)
        assert live.sent[1][0] == 4
        fakes.spares.before(Step("c", 4 + LAG, (0,)))
        await fakes.spares.tend([HOP], 4 + LAG)
        assert live.sent[2] == (0, list(range(4 + LAG)))

    sparing(test)


def test_a_spare_that_cannot_roll_back_is_dropped() -> None:
    async def test(fakes: Fakes, live: FakeHop) -> None:
        fakes.rolls_back = False
        fakes.spares.before(Step("a", 1))
        await fakes.spares.tend([HOP], 10)
        assert live.closed
        assert fakes.bans == []

    sparing(test)


def test_a_spare_that_fails_is_reported_and_another_is_looked_for_later() -> None:
    async def main() -> None:
        bad, good = FakeHop(1, StreamReset("gone")), FakeHop(2)
        fakes = Fakes([bad], [good])
        fakes.grow(3)
        await fakes.spares.tend([HOP], 3)
        assert bad.closed
        assert fakes.bans == [peer(1)]
        await fakes.spares.tend([HOP], 3)
        assert fakes.looks == 1
        fakes.time += LOOK_PAUSE
        await fakes.spares.tend([HOP], 3)
        assert good.sent == [(0, [0, 1, 2])]

    run(main())


def test_a_chain_of_several_is_no_spare() -> None:
    async def main() -> None:
        pair = [FakeHop(1), FakeHop(2)]
        fakes = Fakes(pair)
        fakes.grow(3)
        await fakes.spares.tend([HOP], 3)
        assert all(live.closed for live in pair)
        assert await fakes.spares.take(HOP) is None

    run(main())


def test_the_spare_of_a_hop_that_is_no_more_is_closed() -> None:
    async def test(fakes: Fakes, live: FakeHop) -> None:
        await fakes.spares.tend([], 10)
        assert live.closed

    sparing(test)

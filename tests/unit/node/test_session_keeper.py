"""When a session is looked after, with hops that are only told to be alive or dead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from kwaainet.errors import KwaaiNetError, StreamReset, Unreachable
from kwaainet.node.session_keeper import HEARTBEAT, IN_USE, SessionKeeper
from kwaainet.swarm.health import Reason
from kwaainet.testing.clock import now, run


class FakeHop:
    def __init__(self) -> None:
        self.hop = "a hop"
        self.alive = True
        self.failure: KwaaiNetError | None = None
        self.on_failure: Callable[[], None] = lambda: None

    def fail(self, error: KwaaiNetError, reason: Reason | None = None) -> None:
        self.failure = error
        self.on_failure()


class Session:
    """View, watch and session of one keeper; ``happened`` says what was done when."""

    def __init__(self) -> None:
        self.live = FakeHop()
        self.replaceable = True
        self.pings = 0
        self.happened: list[tuple[str, float]] = []
        self.failures: list[KwaaiNetError] = []
        fakes: Any = self
        self.keeper = SessionKeeper(lambda: fakes.chain, self.repair, self.tend, fakes, fakes, now)
        self.live.on_failure = self.keeper.hop_failed
        self.chain = [self.live]
        self.started = now()

    async def repair(self) -> None:
        self.happened.append(("repair", now() - self.started))
        if self.failures:
            raise self.failures.pop()
        self.live.failure = None

    async def tend(self) -> None:
        self.happened.append(("tend", now() - self.started))

    async def is_alive(self, live: FakeHop) -> bool:
        self.pings += 1
        return live.alive

    def can_replace(self, hop: object) -> bool:
        return self.replaceable

    def repairs(self) -> list[float]:
        return [when for what, when in self.happened if what == "repair"]


def keeping(test: Callable[[Session], Awaitable[None]]) -> None:
    async def main() -> None:
        session = Session()
        await test(session)
        await session.keeper.close()

    run(main())


def test_a_lost_hop_is_replaced_at_once() -> None:
    async def test(session: Session) -> None:
        await asyncio.sleep(1.0)
        session.live.fail(StreamReset("gone"))
        await asyncio.sleep(0.1)
        assert session.repairs() == [1.0]
        assert session.happened[-1][0] == "tend"

    keeping(test)


def test_a_silent_hop_is_found_by_pings() -> None:
    async def test(session: Session) -> None:
        session.live.alive = False
        await asyncio.sleep(HEARTBEAT + 1.0)
        assert isinstance(session.live.failure or Unreachable("repaired"), Unreachable)
        assert session.repairs() == [HEARTBEAT]

    keeping(test)


def test_who_cannot_be_replaced_is_kept() -> None:
    async def test(session: Session) -> None:
        session.live.alive = session.replaceable = False
        await asyncio.sleep(3 * HEARTBEAT)
        assert session.pings >= 2
        assert session.live.failure is None

    keeping(test)


def test_a_step_looks_after_its_hops_itself() -> None:
    async def test(session: Session) -> None:
        session.keeper.step_begins()
        session.live.fail(StreamReset("gone"))
        await asyncio.sleep(3 * HEARTBEAT)
        assert session.happened == []
        assert session.pings == 0
        session.keeper.step_ends()
        await asyncio.sleep(0.1)
        assert session.repairs() == [3 * HEARTBEAT]

    keeping(test)


def test_a_repair_that_fails_is_tried_again() -> None:
    async def test(session: Session) -> None:
        session.failures.append(Unreachable("nobody"))
        session.live.fail(StreamReset("gone"))
        await asyncio.sleep(HEARTBEAT + 1.0)
        assert session.repairs() == [0.0, HEARTBEAT]

    keeping(test)


def test_a_session_out_of_use_is_left_alone() -> None:
    async def test(session: Session) -> None:
        await asyncio.sleep(IN_USE + 1.0)
        pings = session.pings
        session.live.fail(StreamReset("gone"))
        await asyncio.sleep(100.0)
        assert session.repairs() == []
        assert session.pings == pings

    keeping(test)

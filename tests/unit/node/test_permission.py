"""A span is held to what is allowed: room, pause, pace."""

from __future__ import annotations

import asyncio

import pytest
from unit.node.conftest import JOINING, OFFLINE, ONLINE, Swarm, open_session, served
from unit.node.test_span import serving, states

from kwaainet.errors import CapacityError, Paused, RpcError
from kwaainet.node.limits import Allowance
from kwaainet.node.permission import Permission
from kwaainet.testing.clock import now, run

WEIGHTS, TOKEN = 1000, 10


def test_a_pause_ends_sessions_and_refuses_others_until_it_is_over() -> None:
    async def main() -> None:
        permission = Permission()
        span, engine, _ = await serving()
        told: list[Exception] = []
        async with span.open_cache(1, 10, 0.0) as cache:
            cache.on_lost = told.append
            await cache.run(states(1, 2))
            permission.give(Allowance(("battery",)))
            permission.apply(span, 200, WEIGHTS, TOKEN)
            assert permission.reasons == ("battery",)
            assert [type(error) for error in told] == [Paused]
            with pytest.raises(Paused, match="paused"):
                await cache.run(states(1, 1))
        assert engine.open_caches == set(), "its room is free, its weights are not"
        with pytest.raises(Paused, match="paused"):
            async with span.open_cache(1, 10, 0.0):
                pass
        permission.give(Allowance())
        permission.apply(span, 200, WEIGHTS, TOKEN)
        async with span.open_cache(1, 10, 0.0) as cache:
            await cache.run(states(1, 2))
        assert span.requests_done == 2

    run(main())


def test_a_run_under_way_is_for_nobody_and_harms_no_later_one() -> None:
    async def main() -> None:
        permission = Permission()
        span, engine, _ = await serving()
        engine.seconds_per_run, started = 5.0, now()
        async with span.open_cache(1, 10, 0.0) as cache:
            running = asyncio.create_task(cache.run(states(1, 1)))
            await asyncio.sleep(1)
            permission.give(Allowance(("asked",)))
            permission.apply(span, 200, WEIGHTS, TOKEN)
            with pytest.raises(Paused, match="paused"):
                await running
            assert now() - started < 2, "at once, not when the engine is done"
        permission.give(Allowance())
        permission.apply(span, 200, WEIGHTS, TOKEN)
        async with span.open_cache(1, 10, 0.0) as cache:
            await cache.run(states(1, 1))

    run(main())


def test_less_memory_is_less_room_for_those_who_come() -> None:
    async def main() -> None:
        permission = Permission()
        span, _, _ = await serving()
        async with span.open_cache(1, 50, 0.0) as cache:
            permission.give(Allowance(memory_bytes=WEIGHTS + 30 * TOKEN))
            permission.apply(span, 200, WEIGHTS, TOKEN)
            assert (span.admission.total, span.admission.tokens_left) == (30, 0)
            await cache.run(states(1, 3))  # who runs goes on
            with pytest.raises(CapacityError, match="31 tokens"):
                async with span.open_cache(1, 31, 0.0):
                    pass
        assert span.admission.tokens_left == 30
        permission.give(Allowance(memory_bytes=WEIGHTS))
        permission.apply(span, 200, WEIGHTS, TOKEN)
        assert permission.reasons == ("memory",)
        permission.give(Allowance(memory_bytes=0))
        permission.apply(span, 200, WEIGHTS, TOKEN)
        assert (permission.reasons, span.admission.tokens_left) == ((), 200)

    run(main())


def test_loading_waits_for_leave() -> None:
    async def main() -> None:
        permission = Permission()
        span, _, _ = await serving()
        await permission.granted()
        permission.give(Allowance(("asked",)))
        permission.apply(span, 200, WEIGHTS, TOKEN)
        waiting = asyncio.create_task(permission.granted())
        await asyncio.sleep(100)
        assert not waiting.done()
        permission.give(Allowance())
        permission.apply(span, 200, WEIGHTS, TOKEN)
        await asyncio.wait_for(waiting, 1)

    run(main())


def test_half_the_time_is_half_the_work() -> None:
    async def main() -> None:
        permission = Permission()
        permission.give(Allowance(duty=0.5))
        span, engine, _ = await serving(pace=permission.pace)
        engine.seconds_per_run = 1.0
        async with span.open_cache(1, 20, 0.0) as cache:
            started = now()
            for _ in range(5):
                await cache.run(states(1, 1))
            assert now() - started == pytest.approx(9.0, abs=0.1), "five seconds of work, four rests between"
            permission.give(Allowance(duty=1.0))
            permission.apply(span, 200, WEIGHTS, TOKEN)
            started = now()
            await cache.run(states(1, 1))
            assert now() - started == pytest.approx(1.0, abs=0.1), "the last rest is over at once"

    run(main())


def test_a_paused_node_is_not_chosen_and_computes_nothing_and_comes_back_without_loading() -> None:
    async def test(swarm: Swarm) -> None:
        stream = await open_session(swarm)
        swarm.node.allow(Allowance(("asked",)))
        with pytest.raises(RpcError, match="server unavailable: the machine's owner has paused"):
            await stream.receive()
        await asyncio.sleep(1)
        assert swarm.board.states == [JOINING, ONLINE, OFFLINE]
        assert (swarm.node.status.state, swarm.node.status.paused) == (ONLINE, ("asked",))
        with pytest.raises(RpcError, match="paused"):
            await swarm.forward()
        await asyncio.sleep(600)
        assert swarm.board.states == [JOINING, ONLINE, OFFLINE], "said once: nobody asks for more"
        await swarm.node.announce_again()
        assert swarm.board.states[-1] == OFFLINE
        reads = len(swarm.source.reads)
        swarm.node.allow(Allowance())
        await asyncio.sleep(1)
        assert swarm.board.states[-1] == ONLINE
        await swarm.forward()
        assert len(swarm.source.reads) == reads
        assert [progress.stage for progress in swarm.progress if progress.stage in ("paused", "online")] == (
            ["online"] + ["paused"] * 12 + ["online"]
        )

    served(test)


def test_a_node_that_may_not_run_yet_loads_when_it_may() -> None:
    async def main() -> None:
        swarm = Swarm()
        swarm.node.allow(Allowance(("battery",)))
        starting = asyncio.create_task(swarm.node.start(swarm.progress.append))
        await asyncio.sleep(100)
        assert not starting.done()
        assert swarm.board.states == [], "who is paused is not announced"
        assert swarm.source.reads == []
        swarm.node.allow(Allowance())
        await starting
        assert swarm.board.states[-1] == ONLINE
        await swarm.forward()
        await swarm.node.stop()

    run(main())


def test_a_paused_node_leaves_at_once_however_long_it_may_drain() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.node.start()
        swarm.node.allow(Allowance(("asked",)))
        await asyncio.sleep(1)
        started = now()
        await swarm.node.stop(90.0)
        assert now() - started < 1
        assert swarm.board.states == [JOINING, ONLINE, OFFLINE]

    run(main())


def test_half_the_duty_is_announced_as_half_the_speed() -> None:
    async def test(swarm: Swarm) -> None:
        swarm.engine.seconds_per_run = 1.0
        await swarm.forward()
        await swarm.node.announce_again()
        swarm.node.allow(Allowance(duty=0.5))
        await swarm.node.announce_again()
        before, after = (said.server.forward_rps for _, said in swarm.board.said[-2:])
        assert before is not None
        assert after == pytest.approx(before / 2)

    served(test)

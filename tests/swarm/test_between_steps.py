"""What our client does while no step runs, over real nodes: silence, losses, spares."""

from __future__ import annotations

import asyncio

from swarm.nodes import Swarm, inputs, same, undisturbed

from kwaainet.ports import Floats
from kwaainet.testing.clock import now, run


def test_a_silent_server_is_given_up_by_its_pings() -> None:
    async def main() -> None:
        steps = inputs(6)
        swarm = Swarm()
        await swarm.serve("0:5", "0:5")
        async with swarm.client().session(64) as session:
            outputs = [await session.step(hidden) for hidden in steps[:4]]
            swarm.network.freeze(swarm.serving(session, 0).peer)
            started = now()
            outputs += [await session.step(hidden) for hidden in steps[4:]]
            assert now() - started < 4.0
            assert session.failovers == 1
        same(outputs, await undisturbed(steps))

    run(main())


def test_what_is_lost_between_steps_is_replaced_before_the_next() -> None:
    async def main() -> None:
        steps = inputs(6)
        swarm = Swarm()
        await swarm.serve("0:3", "0:3", "3:5", "3:5")
        async with swarm.client().session(64) as session:
            outputs = [await session.step(hidden) for hidden in steps[:3]]
            swarm.serving(session, 4).kill()
            await asyncio.sleep(1.0)
            assert session.failovers == 1
            swarm.network.freeze(swarm.serving(session, 0).peer)
            await asyncio.sleep(10.0)
            assert session.failovers == 2
            started = now()
            outputs += [await session.step(hidden) for hidden in steps[3:]]
            assert now() - started < 0.1
        same(outputs, await undisturbed(steps))

    run(main())


def test_a_session_that_nobody_uses_is_left_alone() -> None:
    async def main() -> None:
        steps = inputs(3)
        swarm = Swarm()
        await swarm.serve("0:5", "0:5")
        async with swarm.client().session(64) as session:
            outputs = [await session.step(hidden) for hidden in steps[:2]]
            await asyncio.sleep(400.0)  # in which the server ends it, too
            assert session.failovers == 0
            outputs += [await session.step(hidden) for hidden in steps[2:]]
            assert session.failovers == 1
        same(outputs, await undisturbed(steps))

    run(main())


def longest_gap(spare: bool) -> tuple[float, int]:
    """Seconds of the longest step of 40 with a loss among them, and the tokens that were replayed in it."""

    async def main() -> tuple[float, int]:
        steps = inputs(40)
        swarm = Swarm()
        servers = await swarm.serve("0:5", "0:5")
        for server in servers:
            server.engine.seconds_per_run = 0.05
        longest, replayed = 0.0, 0
        outputs = []
        async with swarm.client(spare=spare, replay_tokens=4).session(64) as session:
            for count, hidden in enumerate(steps):
                if count == 35:
                    swarm.serving(session, 0).kill()
                before = [len(server.engine.runs) for server in servers]
                started = now()
                outputs.append(await session.step(hidden))
                longest = max(longest, now() - started)
                if count == 35:
                    runs = [server.engine.runs[first:] for server, first in zip(servers, before, strict=True)]
                    replayed = sum(tokens for each in runs for _, tokens in each)
                await asyncio.sleep(0.2)
            assert session.failovers == 1
        same(outputs, await undisturbed(steps))
        return longest, replayed

    return run(main())


def test_a_spare_has_most_of_the_history_already() -> None:
    cold, cold_tokens = longest_gap(False)
    warm, warm_tokens = longest_gap(True)
    assert cold_tokens >= 38
    assert warm_tokens <= 10
    assert warm < cold / 2


def test_a_spare_follows_rollbacks_and_rows() -> None:
    async def main(kill: bool) -> list[Floats]:
        steps = inputs(24, batch=2)
        swarm = Swarm()
        await swarm.serve("0:3", "0:3", "3:5", "3:5")
        outputs = []
        async with swarm.client(spare=True).session(64, 2) as session:
            for count, hidden in enumerate(steps):
                if kill and count == 20:
                    swarm.serving(session, 0).kill()
                    swarm.serving(session, 4).kill()
                if count in (12, 18):
                    await session.rollback(session.position - 7)
                outputs.append(await session.step(hidden, [1, 0] if count in (5, 15, 20) else None))
                await asyncio.sleep(0.5)
        return outputs

    same(run(main(True)), run(main(False)))

"""Our client over real nodes: whatever is lost, no hidden state changes."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from swarm.nodes import NUM_BLOCKS, Server, Swarm, inputs, same, undisturbed

from kwaainet.errors import DeviceLost, EngineError, KwaaiNetError, RpcError, Unreachable
from kwaainet.ports import Floats
from kwaainet.testing.clock import now, run
from kwaainet.testing.model import TINY


def after_each_loss(
    spans: Sequence[str],
    lose: Callable[[Server], Awaitable[None] | None],
    seed: int = 7,
    **options: object,
) -> None:
    """Lose the server of a random block now and then; the outputs stay what they are."""

    async def main() -> None:
        steps = inputs(12)
        expected = await undisturbed(steps)
        swarm = Swarm(seed)
        await swarm.serve(*spans)
        outputs = []
        async with swarm.client(**options).session(64) as session:
            for count, hidden in enumerate(steps):
                if count in (2, 5, 9):
                    lost = swarm.serving(session, swarm.random.randrange(NUM_BLOCKS))
                    pending = lose(lost)
                    if pending is not None:
                        await pending
                    if lost.host.listening:
                        await swarm.serve(str(lost.blocks))
                outputs.append(await session.step(hidden))
            assert session.failovers == 3
            assert session.position == 16
        same(outputs, expected)

    run(main())


def test_a_killed_server_is_replaced_and_nothing_changes() -> None:
    after_each_loss(["0:5", "0:5"], Server.kill)
    after_each_loss(["0:3", "0:3", "3:5", "3:5"], Server.kill)


def test_a_replacement_may_take_several_servers() -> None:
    async def main() -> None:
        steps = inputs(8)
        swarm = Swarm()
        await swarm.serve("0:5")
        async with swarm.client().session(64) as session:
            outputs = [await session.step(hidden) for hidden in steps[:3]]
            await swarm.serve("0:2", "2:4", "4:5")
            swarm.serving(session, 0).kill()
            outputs += [await session.step(hidden) for hidden in steps[3:5]]
            assert [str(hop.blocks) for hop in session.hops] == ["0:2", "2:4", "4:5"]
            await swarm.serve("2:4")
            swarm.serving(session, 3).kill()
            outputs += [await session.step(hidden) for hidden in steps[5:]]
            assert session.failovers == 2
        same(outputs, await undisturbed(steps))

    run(main())


def test_a_server_that_stops_or_loses_its_device_is_replaced() -> None:
    def lose_device(server: Server) -> None:
        server.engine.failures.append(DeviceLost("unplugged"))

    after_each_loss(["0:3", "0:3", "3:5", "3:5"], lambda server: server.node.stop())
    after_each_loss(["0:3", "0:3", "3:5", "3:5"], lose_device)


def test_an_error_that_a_server_reports_is_told_and_not_tried_elsewhere() -> None:
    async def main() -> None:
        swarm = Swarm()
        servers = await swarm.serve("0:5", "0:5")
        async with swarm.client().session(64) as session:
            await session.step(inputs(0)[0])
            server = swarm.serving(session, 0)
            server.engine.failures.append(EngineError("division by zero"))
            runs = sum(len(one.engine.runs) for one in servers)
            with pytest.raises(RpcError, match=f"{server.peer}.*blocks 0:5.*division by zero"):
                await session.step(inputs(1)[1])
            assert session.failovers == 0
            assert sum(len(one.engine.runs) for one in servers) == runs

    run(main())


def test_a_lost_server_that_nobody_can_replace_is_named_after_some_patience() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.serve("0:5")
        async with swarm.client(patience=3.0).session(64) as session:
            await session.step(inputs(0)[0])
            server = swarm.serving(session, 0)
            server.kill()
            started = now()
            with pytest.raises(Unreachable, match=str(server.peer)):
                await session.step(inputs(1)[1])
            assert 3.0 <= now() - started < 6.0

    run(main())


def test_blocks_that_are_held_again_in_time_are_taken_up() -> None:
    async def main() -> None:
        steps = inputs(3)
        swarm = Swarm()
        await swarm.serve("0:5")
        async with swarm.client().session(64) as session:
            outputs = [await session.step(hidden) for hidden in steps[:2]]
            swarm.serving(session, 0).kill()
            await swarm.serve("0:5")
            outputs += [await session.step(hidden) for hidden in steps[2:]]
        same(outputs, await undisturbed(steps))

    run(main())


def test_rows_and_rollbacks_survive_a_loss() -> None:
    async def main(losses: Sequence[int]) -> list[Floats]:
        steps = inputs(8, batch=3)
        swarm = Swarm()
        await swarm.serve("0:3", "3:5", "0:3", "3:5")
        outputs = []
        async with swarm.client().session(64, 3) as session:
            for count, hidden in enumerate(steps):
                if count in losses:
                    lost = swarm.serving(session, 4 * (count % 2))
                    lost.kill()
                    await swarm.serve(str(lost.blocks))
                if count == 6:
                    await session.rollback(5)
                outputs.append(await session.step(hidden, [2, 0, 0] if count in (2, 5) else None))
            assert session.position == 8
            assert session.failovers == len(losses)
        return outputs

    expected = run(main([]))
    for losses in ([2], [3], [2, 5], [3, 6], [1, 2, 3, 4, 5, 6, 7, 8]):
        same(run(main(losses)), expected)


def test_a_wrong_position_is_refused_and_not_computed_through() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.serve("0:5")
        async with swarm.client().session(64) as session:
            await session.step(inputs(0)[0])
            session.position += 1  # a bug of ours, say
            with pytest.raises(RpcError, match="start_from_position is 5, but the session is at 4"):
                await session.step(inputs(1)[1])

    run(main())


def test_a_session_says_what_does_not_fit() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.serve("0:5")
        first, token, *_ = inputs(1)
        async with swarm.client(history_bytes=64 * 4 * TINY.hidden_size).session(65) as session:
            for bad in (first[0], first[:, :0], np.repeat(first, 2, axis=0)):
                with pytest.raises(KwaaiNetError, match="is expected"):
                    await session.step(bad)
            with pytest.raises(KwaaiNetError, match="do not reorder"):
                await session.step(first, [1])
            with pytest.raises(KwaaiNetError, match="66 more do not fit"):
                await session.step(np.repeat(token, 66, axis=1))
            with pytest.raises(KwaaiNetError, match="history_bytes"):
                await session.step(np.repeat(token, 65, axis=1))
            assert (await session.step(first)).shape == first.shape
            with pytest.raises(KwaaiNetError, match="roll a session"):
                await session.rollback(5)

    run(main())


def test_a_server_that_falls_silent_costs_less_than_a_second() -> None:
    """Nothing is closed and nothing said: the swarm still announces it."""

    async def main(seed: int) -> float:
        swarm = Swarm(seed)
        await swarm.serve("0:3", "0:3", "3:5", "3:5")
        async with swarm.client().session(64) as session:
            first, *tokens = inputs(6)
            await session.step(first)
            for hidden in tokens[:-1]:
                await session.step(hidden)
            swarm.network.freeze(swarm.serving(session, swarm.random.randrange(NUM_BLOCKS)).peer)
            started = now()
            await session.step(tokens[-1])
            assert session.failovers == 1
            return now() - started

    assert max(run(main(seed)) for seed in range(10)) < 1.0


def test_a_replacement_that_is_silent_itself_is_replaced_as_soon() -> None:
    """The server dies, and so does the next one, with nothing closed and nothing said."""

    async def main(seed: int) -> float:
        swarm = Swarm(seed)
        servers = await swarm.serve("0:5", "0:5", "0:5")
        async with swarm.client().session(64) as session:
            first, *tokens = inputs(6)
            await session.step(first)
            for hidden in tokens[:-1]:
                await session.step(hidden)
            lost = swarm.serving(session, 0)
            others = [server for server in servers if server is not lost]
            swarm.network.freeze(swarm.random.choice(others).peer)
            lost.kill()
            started = now()
            await session.step(tokens[-1])
            return now() - started

    waited = [run(main(seed)) for seed in range(10)]
    assert 0.1 < max(waited) < 1.0
    assert min(waited) < 0.1, "not all of them met the silent one"


def step_ways(latency: float, ping: float | None = None, **options: object) -> float:
    """What a token through three spans takes, in ways of ``latency`` seconds. The middle server says that
    its ``ping`` to the last is that."""

    async def main() -> float:
        swarm = Swarm()
        swarm.network.latency = latency
        _, middle, last = await swarm.serve("0:2", "2:4", "4:5")
        if ping is not None:
            for record in swarm.records[2:4]:
                record[middle.peer] = replace(record[middle.peer], next_pings={str(last.peer): ping})
        async with swarm.client(**options).session(64) as session:
            first, *tokens = inputs(9)
            await session.step(first)
            await session.step(tokens[0])
            started = now()
            for hidden in tokens[1:]:
                await session.step(hidden)
            return (now() - started) / 8 / latency

    return run(main())


@pytest.mark.parametrize("push", ["on", "auto"])
def test_a_chain_of_k_servers_costs_k_plus_one_ways(push: str) -> None:
    assert step_ways(0.1, push=push) == pytest.approx(4, rel=0.2)
    assert step_ways(0.1, push="off") == pytest.approx(6, rel=0.1)


@pytest.mark.parametrize(
    ("latency", "ping", "ways"),
    [(0.002, None, 6), (0.1, 0.45, 5), (0.1, math.inf, 5), (0.1, 0.2, 4), (0.002, 0.004, 6)],
)
def test_servers_push_only_where_the_way_that_is_saved_pays(
    latency: float, ping: float | None, ways: int
) -> None:
    assert step_ways(latency, ping, push="auto") == pytest.approx(ways, rel=0.1)


def test_losses_in_a_chain_that_pushes() -> None:
    for seed in range(6):
        after_each_loss(["0:2", "0:2", "2:4", "2:4", "4:5", "4:5"], Server.kill, seed, push="on")

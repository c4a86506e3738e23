"""A model's blocks that may move, what is told of them as it changes, and several models on one node."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from unit.node.conftest import (
    CONFIG,
    FILES,
    JOINING,
    MANIFEST,
    OFFLINE,
    ONLINE,
    SPAN,
    Swarm,
    open_session,
    served,
)

from kwaainet.errors import ConfigError, EngineError, RpcError, UsageError
from kwaainet.node.hosting import HostedModel
from kwaainet.node.moving import Restlessness
from kwaainet.swarm import blocks
from kwaainet.testing.clock import now, run
from kwaainet.testing.faults import FaultyEngine
from kwaainet.testing.store import MemorySource
from kwaainet.types import BlockRange

MOVABLE = replace(CONFIG, movable=True, restlessness=Restlessness(check_period=100.0))
FIRST = BlockRange(0, 2)
LAST = BlockRange(3, 5)


def said(swarm: Swarm) -> list[tuple[str, str]]:
    """State and blocks of every announcement."""
    return [(one.server.state.name, str(one.span)) for _, one in swarm.board.said]


def chosen() -> Swarm:
    """A node of two blocks, in a model of five of which others serve all but the last two."""
    return Swarm(MOVABLE)


def test_a_node_that_may_choose_goes_where_it_is_needed() -> None:
    async def main() -> None:
        swarm = chosen()
        await swarm.serve_elsewhere("0:3")
        started = now()
        await swarm.node.start()
        assert said(swarm) == [("JOINING", "3:5"), ("ONLINE", "3:5")]
        assert now() - started > MOVABLE.restlessness.selection_delay / 2
        await swarm.forward(blocks.join("tiny", LAST))
        with pytest.raises(RpcError, match="not served here"):
            await swarm.forward()
        assert swarm.node.status.blocks == LAST
        await swarm.node.stop()

    run(main())


def test_a_node_that_moves_serves_the_old_blocks_until_nobody_needs_them() -> None:
    async def main() -> None:
        swarm = chosen()
        other = await swarm.serve_elsewhere("2:5")
        await swarm.node.start()
        assert swarm.node.status.blocks == FIRST
        await swarm.serve_elsewhere("0:4")
        swarm.others.pop(other)  # nobody has the last block now, and the first two have two
        await asyncio.sleep(207)
        assert said(swarm)[-2:] == [("OFFLINE", "0:2"), ("JOINING", "3:5")]
        moving = swarm.node.status.spans[0]
        assert (moving.blocks, moving.moves) == (FIRST, 0)
        assert moving.moving_in is not None
        await swarm.forward(blocks.join("tiny", FIRST))  # one who has not heard of it
        await asyncio.sleep(70)
        assert said(swarm)[-1] == ("ONLINE", "3:5")
        await swarm.forward(blocks.join("tiny", LAST))
        with pytest.raises(RpcError, match="not served here"):
            await swarm.forward(blocks.join("tiny", FIRST))
        moved = swarm.node.status.spans[0]
        assert (moved.blocks, moved.moves, moved.moving_in, moved.tokens_done) == (LAST, 1, None, 6)
        await swarm.node.stop()
        assert said(swarm)[-1] == ("OFFLINE", "3:5")

    run(main())


async def moving_with_a_session(swarm: Swarm) -> None:
    """The node serves 1:3 and drains before it moves to 3:5."""
    swarm.others.clear()
    gone = [await swarm.serve_elsewhere("0:1"), await swarm.serve_elsewhere("3:5")]
    await swarm.node.start()
    assert swarm.node.status.blocks == SPAN
    swarm.others.pop(gone[1])
    await swarm.serve_elsewhere("0:4")


def test_a_session_that_outlasts_the_move_is_told() -> None:
    async def main() -> None:
        swarm = chosen()
        await moving_with_a_session(swarm)
        stream = await open_session(swarm)
        await asyncio.sleep(207 + 86)
        assert swarm.node.status.sessions == 1
        await asyncio.sleep(5)
        with pytest.raises(RpcError, match="server unavailable: the server has moved to other blocks"):
            await stream.receive()
        assert swarm.node.status.blocks == LAST
        await swarm.node.stop()

    run(main())


def test_a_stop_while_it_moves_drains_what_is_served() -> None:
    async def main() -> None:
        swarm = chosen()
        await moving_with_a_session(swarm)
        await asyncio.sleep(207)
        assert swarm.board.states[-1] == JOINING
        stopping = asyncio.ensure_future(swarm.node.stop(90.0))
        await asyncio.sleep(30)
        await swarm.forward()
        assert swarm.node.status.draining
        await stopping
        assert said(swarm)[-1] == ("OFFLINE", "3:5")

    run(main())


def test_a_place_that_cannot_be_loaded_is_tried_again_and_given_up() -> None:
    async def main() -> None:
        swarm = chosen()
        await moving_with_a_session(swarm)
        swarm.engine.build_failures.extend([EngineError("no memory")] * 99)
        await asyncio.sleep(400)
        assert swarm.board.states[-1] == OFFLINE
        with pytest.raises(RpcError, match="could not load blocks 3:5"):
            await swarm.forward(blocks.join("tiny", LAST))
        await swarm.node.stop()

    run(main())


def test_a_node_whose_blocks_were_given_never_moves() -> None:
    async def test(swarm: Swarm) -> None:
        await swarm.serve_elsewhere("0:5")
        swarm.others = {peer: replace(info, end_block=3) for peer, info in swarm.others.items()}
        await asyncio.sleep(3600)
        assert swarm.node.status.blocks == SPAN

    served(test)


def test_much_less_cache_is_told_soon_and_a_little_less_in_time() -> None:
    async def test(swarm: Swarm) -> None:
        count = len(swarm.board.said)
        streams = [await open_session(swarm) for _ in range(5)]  # of 9 tokens; 50 of 200 are a quarter
        await asyncio.sleep(10)
        assert len(swarm.board.said) == count
        streams.append(await open_session(swarm))
        await asyncio.sleep(6)
        assert len(swarm.board.said) == count + 1
        assert swarm.board.said[-1][1].server.cache_tokens_left == 2 * len(SPAN) * (200 - 6 * 9)
        for stream in streams:
            await stream.close()
        await asyncio.sleep(6)
        assert swarm.board.said[-1][1].server.cache_tokens_left == 2 * len(SPAN) * 200

    served(test)


def test_the_announcement_says_how_far_those_after_us_are() -> None:
    async def main() -> None:
        swarm = Swarm()
        after = await swarm.serve_elsewhere("3:5")
        amid = await swarm.serve_elsewhere("0:3")
        await swarm.serve_elsewhere("0:1")
        await swarm.node.start()
        await asyncio.sleep(61)
        server = swarm.board.said[-1][1].server
        assert server.state == ONLINE
        assert server.next_pings is not None
        assert set(server.next_pings) == {str(amid), str(after)}
        assert all(0 < seconds < 1 for seconds in server.next_pings.values())
        await swarm.node.stop()
        assert swarm.board.said[-1][1].server.next_pings is None

    run(main())


def second(prefix: str = "second", span: BlockRange = LAST) -> HostedModel:
    config = replace(CONFIG, prefix=prefix, blocks=span, cache_tokens=100)
    return HostedModel(config, MANIFEST, MemorySource(FILES), FaultyEngine())


def test_one_node_serves_several_models_and_says_so() -> None:
    async def main() -> None:
        swarm = Swarm()
        swarm.node.add(second())
        await swarm.node.start()
        stated = [(one.prefix, one.server.state.name, str(one.span)) for _, one in swarm.board.said]
        assert stated == [
            ("tiny", "JOINING", "1:3"),
            ("second", "JOINING", "3:5"),
            ("tiny", "ONLINE", "1:3"),
            ("second", "ONLINE", "3:5"),
        ]
        ours = await swarm.forward()
        theirs = await swarm.forward(blocks.join("second", LAST))
        assert not np.allclose(ours, theirs)
        status = swarm.node.status
        assert [(span.prefix, str(span.blocks)) for span in status.spans] == [
            ("tiny", "1:3"),
            ("second", "3:5"),
        ]
        assert [span.tokens_done for span in status.spans] == [3, 3]
        assert (status.state, status.tokens_done) == (ONLINE, 6)
        with pytest.raises(RpcError, match="this server has tiny, second"):
            await swarm.forward("third.0")
        await swarm.node.stop()
        assert swarm.board.states[-2:] == [OFFLINE, OFFLINE]

    run(main())


def test_a_model_twice_or_too_late_is_refused() -> None:
    async def test(swarm: Swarm) -> None:
        with pytest.raises(UsageError, match="add them before"):
            swarm.node.add(second())

    served(test)
    swarm = Swarm()
    with pytest.raises(ConfigError, match="each once"):
        swarm.node.add(second("tiny"))
    for number in range(3):
        swarm.node.add(second(f"m{number}"))
    with pytest.raises(ConfigError, match="at most 4"):
        swarm.node.add(second("m4"))


def test_the_rotary_tables_reach_as_far_as_a_session_can(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[int] = []
    add = FaultyEngine.add_tensor

    async def counted(self: FaultyEngine, name: str, array: np.ndarray) -> None:
        if name in ("cos", "sin"):
            tables.append(len(array))
        await add(self, name, array)

    monkeypatch.setattr(FaultyEngine, "add_tensor", counted)

    async def test(swarm: Swarm) -> None:
        assert tables == [40, 40]  # the model knows 96

    served(test, replace(CONFIG, cache_tokens=40))

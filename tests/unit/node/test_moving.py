"""When a server looks at the swarm, and what it then does."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

from kwaainet.errors import Unreachable
from kwaainet.node.moving import Mover, Restlessness
from kwaainet.swarm.placement import View
from kwaainet.swarm.server_info import ServerInfo, Span
from kwaainet.testing.clock import now, run
from kwaainet.types import BlockRange, PeerId, ServerState

PEERS = [PeerId(bytes.fromhex("002408011220") + bytes([n]) * 32) for n in range(3)]
OPTIONS = Restlessness(check_period=100.0, selection_delay=5.0, min_stay=1000.0, min_urgent_stay=150.0)


class Swarm:
    """Eight blocks, and where each peer is."""

    def __init__(self, *spans: str) -> None:
        self.spans = {peer: BlockRange.parse(span) for peer, span in zip(PEERS, spans, strict=False)}
        self.reads: list[float] = []
        self.moves: list[tuple[float, str]] = []
        self.silent = False

    async def read(self) -> View:
        self.reads.append(now())
        if self.silent:
            raise Unreachable("the relay is gone")
        info = ServerInfo(ServerState.ONLINE, 10.0)
        return View(8, tuple(Span(peer, span, info) for peer, span in self.spans.items()))

    async def move(self, blocks: BlockRange) -> None:
        self.spans[PEERS[0]] = blocks
        self.moves.append((now(), str(blocks)))

    def mover(self, chance: float = 0.5, options: Restlessness = OPTIONS) -> Mover:
        return Mover(PEERS[0], self.read, lambda: chance, options)

    async def watch(self, seconds: float, chance: float = 0.5) -> float:
        """Let the first peer live so long; returns when it began."""
        started = now()
        living = asyncio.ensure_future(self.mover(chance).run(self.move))
        await asyncio.sleep(seconds)
        living.cancel()
        return started


def test_a_newcomer_waits_a_moment_and_goes_where_it_is_needed() -> None:
    async def main() -> None:
        swarm = Swarm("0:8", "0:5")
        started = now()
        assert str(await swarm.mover(0.9).first(3)) == "5:8"
        assert now() - started == 9.0

    run(main())


def test_a_gap_is_filled_when_seen_twice() -> None:
    async def main() -> None:
        swarm = Swarm("0:4", "0:4")
        started = await swarm.watch(400)
        assert swarm.moves == [(started + 205, "4:8")]
        assert [moment - started for moment in swarm.reads[:2]] == [200, 205]

    run(main())


def test_another_who_fills_it_first_makes_the_move_needless() -> None:
    async def main() -> None:
        swarm = Swarm("0:4", "0:4")
        asyncio.get_running_loop().call_later(203, swarm.spans.update, {PEERS[1]: BlockRange(4, 8)})
        await swarm.watch(2000)
        assert swarm.moves == []

    run(main())


def test_balance_alone_moves_nobody_who_has_just_come() -> None:
    async def main() -> None:
        swarm = Swarm("0:4", "0:4", "4:8")
        swarm.spans[PeerId(bytes.fromhex("002408011220") + bytes([9]) * 32)] = BlockRange(0, 4)
        started = await swarm.watch(3000)
        assert len(swarm.moves) == 1
        assert swarm.moves[0][0] - started >= OPTIONS.min_stay

    run(main())


def test_a_swarm_that_cannot_be_read_moves_nobody() -> None:
    async def main() -> None:
        swarm = Swarm("0:4", "0:4")
        swarm.silent = True
        await swarm.watch(1000)
        assert swarm.moves == []
        assert len(swarm.reads) > 5
        swarm.silent = False
        await swarm.watch(400)
        assert len(swarm.moves) == 1

    run(main())


def test_between_two_urgent_moves_lies_a_while() -> None:
    async def main() -> None:
        swarm = Swarm("0:4", "0:4")
        hopping = asyncio.ensure_future(_fill_behind(swarm))
        await swarm.watch(3000, chance=0.1)
        hopping.cancel()
        times = [moment for moment, _ in swarm.moves]
        assert len(times) > 3
        assert all(later - earlier >= OPTIONS.min_urgent_stay for earlier, later in itertools.pairwise(times))

    run(main())


async def _fill_behind(swarm: Swarm) -> None:
    """The other follows at once and leaves the same gap again."""
    while True:
        await asyncio.sleep(1)
        swarm.spans[PEERS[1]] = swarm.spans[PEERS[0]]


def test_the_defaults_are_petals_where_it_has_any() -> None:
    assert replace(Restlessness()) == Restlessness(0.75, 120.0, 5.0)

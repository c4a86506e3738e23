"""Training through other servers: the numbers of one that has all blocks, whoever is lost on the way."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

import numpy as np
import pytest

from kwaainet.errors import CapacityError, KwaaiNetError, RpcError, Unreachable
from kwaainet.inference.history import Budget
from kwaainet.node import forwarded_gradients as module
from kwaainet.node.client import Client
from kwaainet.node.config import NodeConfig
from kwaainet.node.forwarded_gradients import ForwardedGradients
from kwaainet.node.server import ServerNode
from kwaainet.ports import Floats
from kwaainet.swarm.announcement import Announcement
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.gradients import NumpyGradients
from kwaainet.testing.gradients_compliance import states
from kwaainet.testing.host import MemoryNetwork
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange, PeerId

MANIFEST, FILES = random_model()
SPAN = BlockRange(0, TINY.num_hidden_layers)


class Mortal(NumpyGradients):
    """Its server's process is killed when it is asked for this."""

    def __init__(self, killed_by: str, kill: Callable[[], None]) -> None:
        super().__init__(TINY)
        self._killed_by, self._kill = killed_by, kill

    async def forward(self, block: int, hidden: Floats, tables: Mapping[str, Floats]) -> Floats:
        if self._killed_by == "forward":
            self._kill()
        return await super().forward(block, hidden, tables)

    async def backward(
        self, block: int, hidden: Floats, grad: Floats, tables: Mapping[str, Floats]
    ) -> Floats:
        if self._killed_by == "backward":
            self._kill()
        return await super().backward(block, hidden, grad, tables)


class Swarm:
    def __init__(self, limit: int = 1 << 20) -> None:
        self.network = MemoryNetwork(1, latency=0.002)
        self.records: list[dict[PeerId, ServerInfo]] = [{} for _ in range(len(SPAN))]
        self.budget = Budget(limit)
        host = self.network.host()
        self.client = Client(
            host, self.read, "tiny", len(SPAN), now=now, random_bytes=random.Random(1).randbytes
        )
        self.training = ForwardedGradients(host, self.client.view, "tiny", self.budget, 30.0)

    async def read(self, prefix: str, num_blocks: int) -> Sequence[Mapping[PeerId, ServerInfo]]:
        return [dict(record) for record in self.records]

    async def serve(self, text: str, killed_by: str = "", trains: bool = True) -> PeerId:
        host, swarm = self.network.host(), self

        class Board:
            async def announce(self, announcement: Announcement) -> None:
                for block in range(announcement.span.start, announcement.span.end):
                    swarm.records[block][host.peer_id] = announcement.server

            def farewell(self) -> bytes:
                return b""

        node = ServerNode(
            NodeConfig("tiny", BlockRange.parse(text)),
            host=host,
            engine=NumpyEngine(),
            store=MemoryStore(),
            source=MemorySource(FILES),
            manifest=MANIFEST,
            announcer=Board(),
            now=now,
            gradients=Mortal(killed_by, lambda: self.network.vanish(host.peer_id)) if trains else None,
        )
        await node.start()
        return host.peer_id


def play(scene: Callable[[Swarm], Awaitable[None]], **options: int) -> None:
    async def main() -> None:
        swarm = Swarm(**options)
        await scene(swarm)
        assert swarm.budget.used == 0

    run(main())


async def expected(
    hidden: Floats, grad: Floats, blocks: BlockRange, prompts: Floats | None
) -> tuple[Floats, Floats, Floats | None]:
    swarm = Swarm()
    await swarm.serve(str(SPAN))
    output = await swarm.training.forward(hidden, blocks, prompts)
    return (output, *await swarm.training.backward(hidden, grad, blocks, prompts))


async def check(swarm: Swarm, *, prompted: bool, blocks: BlockRange = SPAN, tokens: int = 6) -> None:
    hidden, grad = states(TINY, 2, tokens), states(TINY, 2, tokens, 2)
    deep = np.stack([states(TINY, 2, 3, 9 + block) for block in range(len(blocks))]) if prompted else None
    output, back, of_prompts = await expected(hidden, grad, blocks, deep)
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(await swarm.training.forward(hidden, blocks, deep), output, **close)
    got, got_prompts = await swarm.training.backward(hidden, grad, blocks, deep)
    np.testing.assert_allclose(got, back, **close)
    if of_prompts is None:
        assert got_prompts is None
    else:
        np.testing.assert_allclose(got_prompts, of_prompts, **close)


@pytest.mark.parametrize("prompted", [False, True])
def test_a_chain_computes_what_one_server_does(prompted: bool) -> None:
    async def scene(swarm: Swarm) -> None:
        for text in ("0:2", "2:4", "4:5"):
            await swarm.serve(text)
        await check(swarm, prompted=prompted)
        await check(swarm, prompted=prompted, blocks=BlockRange(1, 4))

    play(scene)


def test_what_fits_no_message_goes_by_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNARY_PAYLOAD", 100)
    monkeypatch.setattr(module, "PART_SIZE", 1000)

    async def scene(swarm: Swarm) -> None:
        await swarm.serve("0:3")
        await swarm.serve("3:5")
        await check(swarm, prompted=True, tokens=20)

    play(scene)


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_a_server_lost_on_the_way_is_replaced_for_its_own_blocks(when: str) -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.serve("0:2")
        lost = await swarm.serve("2:4", killed_by=when)
        await swarm.serve("4:5")
        await swarm.client.chain()
        await swarm.serve("2:3")
        await swarm.serve("3:4")
        await swarm.client.view.renew()
        await check(swarm, prompted=True)
        assert lost in swarm.client.view.health.bans(now())

    play(scene)


def test_blocks_that_nobody_holds_any_more_are_named() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.serve("0:5", killed_by="forward")
        with pytest.raises(Unreachable, match="block 0"):
            await swarm.training.forward(states(TINY, 1, 3), SPAN, states(TINY, 5, 1)[:, None])

    play(scene)


def test_a_server_that_does_not_train_says_so() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.serve("0:5", trains=False)
        with pytest.raises(RpcError, match=r"server 12D3.* computes no gradients"):
            await swarm.training.backward(states(TINY, 1, 3), states(TINY, 1, 3), SPAN, None)

    play(scene)


def test_inputs_are_kept_within_the_budget() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.serve("0:3")
        await swarm.serve("3:5")
        hidden = states(TINY, 1, 6)
        with pytest.raises(CapacityError, match="input history"):
            await swarm.training.backward(hidden, hidden, SPAN, None)

    play(scene, limit=6 * TINY.hidden_size * 4 + 1)


def test_too_many_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REQUESTS", 0)

    async def scene(swarm: Swarm) -> None:
        with pytest.raises(KwaaiNetError, match="under way"):
            await swarm.training.forward(states(TINY, 1, 3), SPAN, None)

    play(scene)

"""A caller that sends nonsense is told what was wrong, and nobody beside it notices."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser.peers import PREFIX, Peer, expected, hidden_states, joined
from browser.tabs import SOON, open_tab

from kwaainet.errors import RpcError
from kwaainet.native.chromium import Browser
from kwaainet.types import BlockRange, PeerId
from kwaainet.wire.messages import ExpertUID


@dataclass(frozen=True)
class Stage:
    """A serving tab and a client, and the loop they live in."""

    runner: asyncio.Runner
    peer: Peer
    server: str

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.runner.run(work)


@pytest.fixture(scope="module")
def stage(origin: dict[str, Any]) -> Iterator[Stage]:
    async def enter(stack: AsyncExitStack) -> tuple[Peer, str]:
        browser = await stack.enter_async_context(await Browser.launch())
        tab = await open_tab(browser, origin["http"], backend="wasm")
        online = await tab.contribute()
        return await stack.enter_async_context(joined(origin["tcp"])), online["peer_id"]

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            yield Stage(runner, *runner.run(enter(stack)))
        finally:
            runner.run(stack.aclose())


Misdeed = Callable[[Stage], Awaitable[object]]


async def another_prefix(stage: Stage) -> None:
    session = await stage.peer.session(stage.server, prefix="another-model")
    await session.step(hidden_states(1, 2))


async def blocks_it_has_not(stage: Stage) -> None:
    session = await stage.peer.session(stage.server, span=BlockRange(2, 9))
    await session.step(hidden_states(1, 2))


async def another_hidden_size(stage: Stage) -> None:
    session = await stage.peer.session(stage.server)
    await session.step(hidden_states(1, 2)[..., :-1])


async def another_dtype(stage: Stage) -> None:
    session = await stage.peer.session(stage.server)
    await session.step(np.zeros((1, 2, 192), np.int64))


async def more_than_it_reserved(stage: Stage) -> None:
    session = await stage.peer.session(stage.server, max_length=4)
    await session.step(hidden_states(1, 5))


async def more_than_the_model_holds(stage: Stage) -> None:
    session = await stage.peer.session(stage.server, max_length=1 << 40)
    await session.step(hidden_states(1, 1))


async def a_growing_batch(stage: Stage) -> None:
    session = await stage.peer.session(stage.server)
    await session.step(hidden_states(1, 2))
    await session.step(hidden_states(2, 2))


async def a_future_position(stage: Stage) -> None:
    session = await stage.peer.session(stage.server)
    await session.step(hidden_states(1, 2), start_from_position=7)


async def bytes_that_are_no_message(stage: Stage) -> None:
    session = await stage.peer.session(stage.server)
    await session.stream.send(b"\xff" * 100)
    await session.stream.receive()


async def a_question_about_another_model(stage: Stage) -> None:
    request = ExpertUID("another-model.0").encode()
    protocol = "TransformerConnectionHandler.rpc_info"
    await stage.peer.host.call(PeerId.parse(stage.server), protocol, request, timeout=SOON)


MISDEEDS = {
    another_prefix: "another-model",
    blocks_it_has_not: PREFIX,
    another_hidden_size: "191",
    another_dtype: "int64",
    more_than_it_reserved: "Maximum length exceeded",
    more_than_the_model_holds: "Cannot allocate KV cache",
    a_growing_batch: "a batch of 2 in a session opened for a batch of 1",
    a_future_position: "start_from_position is 7, but the session is at 0",
    bytes_that_are_no_message: "",
    a_question_about_another_model: "another-model",
}


@pytest.mark.parametrize("misdeed", MISDEEDS, ids=lambda misdeed: misdeed.__name__)
def test_a_bad_request_ends_its_own_session_only(stage: Stage, small_model: Path, misdeed: Misdeed) -> None:
    async def main() -> None:
        hidden = hidden_states(1, 6)
        beside = await stage.peer.session(stage.server)
        first = await beside.step(hidden[:, :4])
        with pytest.raises(RpcError) as told:
            await asyncio.wait_for(misdeed(stage), SOON)
        assert MISDEEDS[misdeed] in str(told.value)
        assert "internal error" not in str(told.value)
        rest = await beside.step(hidden[:, 4:])
        found = np.concatenate([first, rest], axis=1)
        assert np.abs(found - await expected(small_model, hidden)).max() < 1e-3
        await beside.stream.close()

    stage.run(main())


def test_sessions_side_by_side_do_not_mix(stage: Stage, small_model: Path) -> None:
    async def converse(seed: int) -> None:
        hidden = hidden_states(1, 12, seed)
        session = await stage.peer.session(stage.server)
        found = [await session.step(hidden[:, :5])]
        found += [await session.step(hidden[:, at : at + 1]) for at in range(5, 12)]
        wanted = await expected(small_model, hidden)
        assert np.abs(np.concatenate(found, axis=1) - wanted).max() < 1e-3
        await session.stream.close()

    async def main() -> None:
        await asyncio.gather(*(converse(seed) for seed in range(4)))

    stage.run(main())

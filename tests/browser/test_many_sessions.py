"""Many sessions at once in one tab: each gets what it would get alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from browser.peers import SMALL, Peer, expected, hidden_states, joined
from browser.tabs import open_tab

from kwaainet.native.chromium import Browser
from kwaainet.ports import Floats

SESSIONS = 16
STEPS = 8
TOLERANCE = 1e-3


def test_sixteen_sessions_get_what_each_would_get_alone(origin: dict[str, Any], small_model: Path) -> None:
    """Prompts of different lengths, among them one far longer than all the others together."""

    async def main() -> None:
        async with await Browser.launch() as browser, joined(origin["tcp"]) as peer:
            tab = await open_tab(browser, origin["http"], backend="wasm")
            server = (await tab.contribute())["peer_id"]
            prompts = [1 + 3 * number for number in range(SESSIONS - 1)] + [400]
            hidden = [hidden_states(1, prompt + STEPS, seed) for seed, prompt in enumerate(prompts)]
            found_by_all = await asyncio.gather(*(talk(peer, server, states) for states in hidden))
            for states, found in zip(hidden, found_by_all, strict=True):
                wanted = await expected(small_model, states)
                assert float(np.abs(found - wanted).max()) < TOLERANCE

    asyncio.run(main())


async def talk(peer: Peer, server: str, hidden: Floats) -> Floats:
    """A prompt, then steps as fast as they are answered; all outputs, joined."""
    prompt = hidden.shape[1] - STEPS
    session = await peer.session(server, max_length=SMALL.max_position_embeddings)
    outputs = [await session.step(hidden[:, :prompt])]
    for at in range(prompt, hidden.shape[1]):
        outputs.append(await session.step(hidden[:, at : at + 1]))
    await session.stream.close()
    return np.concatenate(outputs, axis=1)

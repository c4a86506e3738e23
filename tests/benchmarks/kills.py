"""Tabs killed in the middle of a generation: does a token change, and how long is the gap?

Two tabs, each a Chromium of its own, hold each part of a small model. Our client generates; at a random
moment one of the tabs it goes through is killed (SIGKILL of the whole browser: nothing is said), and a new
one is started for the next time. A gap is the longest time between two tokens of a generation with a kill.
Stock petals clients have nothing to compare with: after any failure their session ends with an error.

Rule of the file: every generation is compared with the same one computed by numpy in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import numpy as np
from browser.peers import ALL, PREFIX, SMALL, Peer, joined, write_small_model
from browser.tabs import Tab, eventually, open_tab
from interop.running import relay

from kwaainet.inference.head import LanguageHead
from kwaainet.inference.sampling import Sampling
from kwaainet.native.chromium import Browser
from kwaainet.native.model import open_model
from kwaainet.node.client import Client, ClientOptions, generate
from kwaainet.node.directory import dht_reader
from kwaainet.node.model import load_span
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.store import MemoryStore
from kwaainet.types import ServerState

from .report import Result, Row

KILLS_A_ROUND = 10
TOKENS = 48  # of one generation; the prompt is as long
SPANS = ("0:2", "2:3")
GOAL = 1.0  # seconds


@dataclass
class Figures:
    """Seconds between tokens: ``gaps`` the longest of each generation with a kill, ``steps`` all of the
    undisturbed ones. ``wrong`` counts generations with another token."""

    gaps: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    wrong: int = 0
    failed: list[str] = field(default_factory=list)


@dataclass
class Holder:
    """A tab in a browser of its own."""

    browser: Browser
    tab: Tab
    peer_id: str
    span: str

    def kill(self) -> None:
        """Every process of the browser, at once."""
        os.killpg(self.browser.process_id, signal.SIGKILL)


def measure(folder: Path, rounds: int) -> Result:
    """Needs the headless Chromium."""
    model = write_small_model(folder / "small")
    with relay(folder, "--model", model, "--prefix", PREFIX) as ready:
        figures = asyncio.run(_measure(ready["http"], ready["tcp"], model, KILLS_A_ROUND * rounds))
    return Result(_rows(figures), figures.__dict__)


async def _measure(url: str, address: str, model: Path, kills: int) -> Figures:
    opened, engine = open_model(model), NumpyEngine()
    await load_span(opened.manifest, ALL, opened.source, MemoryStore(), engine)
    head, figures, chance = opened.load_head(), Figures(), random.Random(1)
    async with AsyncExitStack() as stack:
        peer = await stack.enter_async_context(joined(address))
        holders: dict[str, Holder] = {}
        for span in SPANS * 2:
            await _hold(stack, url, peer, span, holders)
        client = Client(
            peer.host,
            dht_reader(peer.dht),
            PREFIX,
            len(ALL),
            now=time.perf_counter,
            random_bytes=os.urandom,
            options=ClientOptions(),
        )
        prompts = [[chance.randrange(SMALL.vocab_size) for _ in range(TOKENS)] for _ in range(kills)]
        for prompt in prompts:
            wanted = await _local(engine, head, prompt)
            await _undisturbed(client, head, prompt, wanted, figures)
            lost = await _disturbed(client, head, prompt, wanted, holders, chance, figures)
            with contextlib.suppress(Exception):
                await lost.browser.close()
            await _hold(stack, url, peer, lost.span, holders)
    return figures


async def _hold(stack: AsyncExitStack, url: str, peer: Peer, span: str, holders: dict[str, Holder]) -> None:
    """Start one more tab for ``span`` and wait until the swarm knows it."""
    browser = await stack.enter_async_context(_browser())
    tab = await open_tab(browser, url, backend="wasm", blocks=span)
    peer_id = str((await tab.contribute())["peer_id"])
    holders[peer_id] = Holder(browser, tab, peer_id, span)

    async def known() -> bool:
        return ServerState.ONLINE in await peer.states(PREFIX, len(ALL), peer_id)

    await eventually(known)


@asynccontextmanager
async def _browser() -> AsyncIterator[Browser]:
    browser = await Browser.launch()
    try:
        yield browser
    finally:
        with contextlib.suppress(Exception):  # it was killed, as likely as not
            await browser.close()


async def _local(engine: NumpyEngine, head: LanguageHead, prompt: Sequence[int]) -> list[int]:
    """The tokens that one server of everything would give."""
    cache = await engine.open_cache(1, 2 * TOKENS)
    tokens: list[int] = []
    fed = prompt
    for _ in range(TOKENS):
        output = await engine.run(cache, head.embed(fed))
        tokens.append(int(np.argmax(head.logits(output[0, -1]))))
        fed = tokens[-1:]
    await engine.close_cache(cache)
    return tokens


async def _undisturbed(
    client: Client, head: LanguageHead, prompt: Sequence[int], wanted: list[int], figures: Figures
) -> None:
    found: list[int] = []
    times = [time.perf_counter()]
    async with client.session(2 * TOKENS) as session:
        async for token in generate(session, head, prompt, TOKENS, sampling=Sampling(), chance=float):
            found.append(token)
            times.append(time.perf_counter())
    figures.wrong += found != wanted
    figures.steps += list(np.diff(times[1:]))


async def _disturbed(
    client: Client,
    head: LanguageHead,
    prompt: Sequence[int],
    wanted: list[int],
    holders: dict[str, Holder],
    chance: random.Random,
    figures: Figures,
) -> Holder:
    """Kill a tab of the chain at a random moment of the generation; returns it."""
    when = chance.randrange(4, TOKENS - 4)
    delay = chance.random() * median(figures.steps)
    found: list[int] = []
    times: list[float] = []
    async with client.session(2 * TOKENS) as session:
        lost = holders.pop(str(chance.choice(session.hops).peer))
        try:
            async for token in generate(session, head, prompt, TOKENS, sampling=Sampling(), chance=float):
                found.append(token)
                times.append(time.perf_counter())
                if len(found) == when:
                    asyncio.get_running_loop().call_later(delay, lost.kill)
        except Exception as error:
            figures.failed.append(repr(error))
            lost.kill()
            return lost
        if not session.failovers:
            figures.failed.append(f"the loss of {lost.peer_id} was not noticed")
    figures.wrong += found != wanted
    figures.gaps.append(float(max(np.diff(times[when - 1 :]))))
    return lost


def _rows(figures: Figures) -> list[Row]:
    middle, late = median(figures.gaps), quantiles(figures.gaps, n=20)[-1]
    step = median(figures.steps)
    kills = len(figures.gaps) + len(figures.failed)
    return [
        Row(
            f"{kills} tabs killed mid-generation: other tokens, lost generations",
            f"{figures.wrong}, {len(figures.failed)}",
            goal="0, 0",
        ),
        Row(
            "· gap between tokens, median and p95",
            f"{1000 * middle:.0f} and {1000 * late:.0f} ms",
            f"{1000 * step:.1f} ms (a token without a kill)",
            goal=f"p95 < {GOAL:g} s",
        ),
    ]

"""Servers killed in the middle of a generation of our client: does a token change, and how long is the gap?

Two servers hold each part of a small model. Our client generates; at a random moment one of the servers it
goes through is ended by SIGKILL, which says nothing, and another is started for the next time. A gap is the
longest time between two tokens of a generation with a kill. Most kills hit native stand-ins
(``native_tab.py``), which start in a second; ``killed_tabs`` are real ones. A stock petals client has
nothing to compare with: it cannot go on within a generation after any failure.

Rule of the file: every generation is compared with the same one computed by numpy in this process.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from browser.peers import ALL, PREFIX, SMALL, joined, write_small_model
from browser.tabs import eventually
from interop.cases import Case
from interop.running import Running, native_tab, relay, tab

from kwaainet.inference.head import LanguageHead
from kwaainet.inference.sampling import Sampling
from kwaainet.native.model import open_model
from kwaainet.node.client import Client, generate
from kwaainet.node.model import load_span
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.store import MemoryStore
from kwaainet.types import PeerId

from .report import Result, kills_row

KILLS_A_ROUND = 10
TOKENS = 48  # of one generation; the prompt is as long
SPANS = ("0:2", "2:3")

Server = tuple[Running, dict[str, Any]]  # and its online event
Start = Callable[[str, str], AbstractContextManager[Server]]  # (blocks, name) -> a server


@dataclass
class Figures:
    """Seconds between tokens: ``gaps`` the longest of each generation with a kill, ``steps`` all of the
    undisturbed ones. ``wrong`` counts generations with another token, ``failed`` tells of those lost."""

    gaps: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    generations: int = 0
    wrong: int = 0
    failed: list[str] = field(default_factory=list)


def measure(folder: Path, rounds: int) -> Result:
    """Native stand-ins for tabs; needs nothing but the set-up."""
    return _measure(folder, "native stand-ins", _stand_ins, KILLS_A_ROUND * rounds)


def measure_tabs(folder: Path, rounds: int) -> Result:
    """Needs the headless Chromium."""
    return _measure(folder, "tabs, wasm", _tabs, KILLS_A_ROUND * rounds)


def _measure(
    folder: Path, name: str, starter: Callable[[Path, dict[str, Any], Path], Start], kills: int
) -> Result:
    model = write_small_model(folder / "small")
    with relay(folder, "--model", model, "--prefix", PREFIX) as origin, ExitStack() as stack:
        killer = _Killer(starter(folder, origin, model), stack, random.Random(time.time_ns()))
        figures = asyncio.run(killer.run(origin["tcp"], model, kills))
    row = kills_row(
        "our client", f"{kills} kills ({name})", figures.gaps, median(figures.steps),
        figures.wrong, figures.generations, len(figures.failed),
    )  # fmt: skip
    return Result([row], asdict(figures))


def _stand_ins(folder: Path, origin: dict[str, Any], model: Path) -> Start:
    case = Case(model, model, PREFIX, len(ALL))
    return lambda blocks, name: native_tab(folder, origin, case, blocks, name)


def _tabs(folder: Path, origin: dict[str, Any], model: Path) -> Start:
    flags = ("--backend", "wasm", "--blocks")
    return lambda blocks, name: tab(folder, origin["http"], *flags, blocks, name=name)


class _Killer:
    """Generates, kills, and starts what it has killed anew."""

    def __init__(self, start: Start, stack: ExitStack, chance: random.Random) -> None:
        self._start, self._stack, self._chance = start, stack, chance
        self._servers: dict[str, tuple[Running, str]] = {}  # by peer id; the process and its blocks
        self._figures = Figures()
        self._count = 0

    async def run(self, address: str, model: Path, kills: int) -> Figures:
        """So many kills, each in a generation of its own."""
        opened, engine = open_model(model), NumpyEngine()
        await load_span(opened.manifest, ALL, opened.source, MemoryStore(), engine)
        head = opened.load_head()
        async with joined(address) as peer:
            client = peer.client(PREFIX, len(ALL))
            for blocks in SPANS * 2:
                await self._add(client, blocks)
            for _ in range(kills):
                prompt = [self._chance.randrange(SMALL.vocab_size) for _ in range(TOKENS)]
                wanted = await _local(engine, head, prompt)
                await self._generate(client, head, prompt, wanted, None)
                when = self._chance.randrange(4, TOKENS - 4)
                blocks = await self._generate(client, head, prompt, wanted, when)
                await self._add(client, blocks)
        return self._figures

    async def _add(self, client: Client, blocks: str) -> None:
        """Start one more server of ``blocks`` and wait until the client knows it."""
        self._count += 1
        starting = self._start(blocks, f"server-{self._count}")
        running, online = await asyncio.to_thread(self._stack.enter_context, starting)
        self._servers[online["peer_id"]] = (running, blocks)

        async def known() -> bool:
            await client.view.renew()
            return PeerId.parse(online["peer_id"]) in {span.peer for span in client.view.spans}

        await eventually(known)

    async def _generate(
        self, client: Client, head: LanguageHead, prompt: Sequence[int], wanted: list[int], when: int | None
    ) -> str:
        """One generation; after its token ``when`` one of its servers is killed. Returns its blocks."""
        found: list[int] = []
        times: list[float] = []
        blocks = ""
        self._figures.generations += 1
        try:
            async with client.session(2 * TOKENS) as session:
                async for token in generate(session, head, prompt, TOKENS, sampling=Sampling(), chance=float):
                    found.append(token)
                    times.append(time.perf_counter())
                    if len(found) == when:
                        blocks = self._kill_soon(str(self._chance.choice(session.hops).peer))
                if when is not None and not session.failovers:
                    self._figures.failed.append("a loss that nobody noticed")
        except Exception as error:  # any end of a generation is what is counted here
            self._figures.failed.append(repr(error))
            return blocks
        self._figures.wrong += found != wanted
        gaps = [float(gap) for gap in np.diff(times)]
        if when is None:
            self._figures.steps += gaps
        else:
            self._figures.gaps.append(max(gaps[when - 1 :]))
        return blocks

    def _kill_soon(self, peer_id: str) -> str:
        """Within the time of a token, so that it may hit any part of a step."""
        running, blocks = self._servers.pop(peer_id)
        delay = self._chance.random() * median(self._figures.steps)
        asyncio.get_running_loop().call_later(delay, _kill, running)
        return blocks


def _kill(running: Running) -> None:
    """The process and, of a tab, its whole browser, which leads a process group of its own."""
    process_id = running.process.pid
    children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    for one in (*map(int, children), process_id):
        os.killpg(one, signal.SIGKILL)


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

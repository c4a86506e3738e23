"""Servers killed in the middle of a generation of our client: does a token change, and how long is the gap?

Several servers hold each part of a small model. Our client generates; at a random moment one of the servers
it goes through is ended by SIGKILL, which says nothing, and another is started for the next time. A gap is
the longest time between two tokens from the kill on. Most kills hit native stand-ins (``native_tab.py``),
which start in a second; ``killed_tabs`` are real ones. A stock petals client has nothing to compare with:
it cannot go on within a generation after any failure.

Rule of the file: every generation is compared with the same one computed by numpy in this process.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from browser.peers import ALL, PREFIX, SMALL, joined, write_small_model
from browser.tabs import eventually
from interop.cases import Case
from interop.running import POLL, Failed, native_tab, relay, tab

from kwaainet.inference.head import LanguageHead
from kwaainet.inference.sampling import Sampling
from kwaainet.native.model import open_model
from kwaainet.node.client import Client, generate
from kwaainet.node.model import load_span
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.store import MemoryStore

from .holders import LEFT, Holders, Start
from .journal import Journal
from .report import Result, Row, kills_row

KILLS_A_ROUND = 10
TOKENS = 48  # of one generation; the prompt is as long
SPANS = ("0:2", "2:3")


def measure(folder: Path, rounds: int) -> Result:
    """Native stand-ins for tabs; needs nothing but the set-up."""
    return _measure(folder, Journal("kills"), "native stand-ins", _stand_ins, KILLS_A_ROUND * rounds)


def measure_tabs(folder: Path, rounds: int) -> Result:
    """Needs the headless Chromium."""
    return _measure(folder, Journal("killed_tabs"), "tabs, wasm", _tabs, KILLS_A_ROUND * rounds)


def _measure(
    folder: Path,
    journal: Journal,
    name: str,
    starter: Callable[[Path, dict[str, Any], Path], Start],
    kills: int,
) -> Result:
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(filename=folder / "client.err", level=logging.INFO, format=form)
    if len(journal.of("kill")) < kills:
        model = write_small_model(folder / "small")
        with (
            relay(folder, "--model", model, "--prefix", PREFIX) as origin,
            Holders(starter(folder, origin, model), SPANS) as holders,
        ):
            asyncio.run(_Killer(holders, journal).run(origin["tcp"], model, kills))
    return Result(*_outcome(journal.measured("kill"), name))


def _outcome(found: list[dict[str, Any]], name: str) -> tuple[list[Row], dict[str, Any]]:
    gaps = [one["gap"] for one in found if one["gap"] is not None]
    row = kills_row(
        "our client", f"{len(found)} kills ({name})", gaps, median(one["usual"] for one in found),
        sum(one["wrong"] for one in found), len(found), len(found) - len(gaps),
    )  # fmt: skip
    return [row], {"kills": found}


def _stand_ins(folder: Path, origin: dict[str, Any], model: Path) -> Start:
    case = Case(model, model, PREFIX, len(ALL))
    return lambda blocks, name: native_tab(folder, origin, case, blocks, name)


def _tabs(folder: Path, origin: dict[str, Any], model: Path) -> Start:
    flags = ("--backend", "wasm", "--blocks")
    return lambda blocks, name: tab(folder, origin["http"], *flags, blocks, name=name)


class _Killer:
    """Generates and kills."""

    def __init__(self, holders: Holders, journal: Journal) -> None:
        self._holders, self._journal = holders, journal
        self._chance = random.Random(time.time_ns())

    async def run(self, address: str, model: Path, kills: int) -> None:
        """Until there are so many kills, each in a generation of its own."""
        opened, engine = open_model(model), NumpyEngine()
        await load_span(opened.manifest, ALL, opened.source, MemoryStore(), engine)
        head = opened.load_head()
        async with joined(address) as peer:
            client = peer.client(PREFIX, len(ALL))
            while len(self._journal.of("kill")) < kills:
                prompt = [self._chance.randrange(SMALL.vocab_size) for _ in range(TOKENS)]
                wanted = await _local(engine, head, prompt)
                await self._all_there(client)
                await self._generate(client, head, prompt, wanted)

    async def _all_there(self, client: Client) -> None:
        """Wait until the client knows enough servers of every part."""
        while not self._holders.enough:
            await asyncio.sleep(POLL)

        async def known() -> bool:
            await client.view.renew()
            there = {str(span.peer) for span in client.view.spans}
            return all(len(self._holders.peers(blocks) & there) >= LEFT for blocks in SPANS)

        await eventually(known)

    async def _generate(
        self, client: Client, head: LanguageHead, prompt: Sequence[int], wanted: list[int]
    ) -> None:
        """One generation, amid which one of its servers is killed."""
        tokens: list[int] = []
        times: list[float] = []
        when = self._chance.randrange(4, TOKENS - 4)
        error, blocks = "", ""
        try:
            async with client.session(2 * TOKENS) as session:
                async for token in generate(session, head, prompt, TOKENS, sampling=Sampling(), chance=float):
                    tokens.append(token)
                    times.append(time.perf_counter())
                    if len(tokens) == when:
                        usual = float(median(np.diff(times)))
                        peer = str(self._chance.choice(session.hops).peer)
                        blocks = self._holders.blocks_of(peer)
                        self._kill_soon(peer, usual)
                if not session.failovers:
                    error = "a loss that nobody noticed"
        except Exception as failure:  # any end of a generation is what is counted here
            error = repr(failure)
        if len(tokens) < when:
            raise Failed(f"a generation ended before anything was killed: {error}")
        self._journal.note(
            "kill",
            blocks=blocks,
            at=when,
            gap=None if error else float(max(np.diff(times)[when - 1 :])),
            usual=usual,
            wrong=tokens != wanted[: len(tokens)],
            error=error,
        )

    def _kill_soon(self, peer: str, within: float) -> None:
        """Within the time of a token, so that it may hit any part of a step."""
        asyncio.get_running_loop().call_later(self._chance.random() * within, self._holders.kill, peer)


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

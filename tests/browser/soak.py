"""Real tabs serve, users generate through them all the time, and tabs are killed without warning.

Rule of the file: every token is compared with what the model says on its own; a tab is only taken
away while every block has another holder, so no session may be lost. ``test_soak.py`` plays this
with three tabs for a short while; ``PYTHONPATH=tests python -m browser.soak --seconds 300`` with six.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from browser.peers import ALL, PREFIX, SMALL, joined, write_small_model
from browser.tabs import Tab, open_tab
from interop.running import relay

from kwaainet.errors import KwaaiNetError
from kwaainet.inference.head import LanguageHead
from kwaainet.inference.sampling import Sampling, choose
from kwaainet.native.chromium import Browser
from kwaainet.native.model import open_model
from kwaainet.node.client import ChainSession, Client, generate
from kwaainet.node.model import load_span
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.store import MemoryStore
from kwaainet.types import BlockRange

SPANS = ("0:3", "0:2", "1:3", "0:1", "2:3", "1:2")  # every block has three holders or more
SAMPLING = Sampling(temperature=1.0)  # a small difference in the logits soon shows in a token
KNOWN_AFTER = 3.0  # seconds after which a tab that has come online counts as a holder


@dataclass
class Report:
    """What came of it; gaps are seconds between two tokens."""

    tokens: int = 0
    sessions: int = 0
    failovers: int = 0
    gaps: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        ordered = sorted(self.gaps) or [0.0]
        p99, median = ordered[int(0.99 * (len(ordered) - 1))], statistics.median(ordered)
        return (
            f"{self.tokens} tokens in {self.sessions} sessions, {len(self.wrong)} wrong, "
            f"{len(self.lost)} lost, {self.failovers} fail-overs; ended {dict(self.ended)}; between tokens: "
            f"median {1000 * median:.0f} ms, p99 {1000 * p99:.0f} ms, longest {ordered[-1]:.2f} s"
        )


class Place:
    """One of the six: a browser of its own, with a tab that serves ``blocks``."""

    def __init__(self, url: str, blocks: str) -> None:
        self._url, self.blocks = url, BlockRange.parse(blocks)
        self._browser: Browser | None = None
        self._tab: Tab | None = None
        self._online_since = float("inf")
        self.peer = ""

    @property
    def holds(self) -> set[int]:
        """The blocks that others may rely on it for."""
        known = time.monotonic() - self._online_since > KNOWN_AFTER
        return set(range(self.blocks.start, self.blocks.end)) if known else set()

    async def fill(self) -> None:
        """Start a browser and contribute."""
        self._browser = await Browser.launch()
        self._tab = await open_tab(self._browser, self._url, backend="wasm", blocks=str(self.blocks))
        self.peer = (await self._tab.contribute())["peer_id"]
        self._online_since = time.monotonic()

    async def end(self, how: str) -> None:
        """``killed``: SIGKILL for the whole browser; ``closed`` and ``reloaded``: as a person would."""
        assert self._browser is not None
        assert self._tab is not None
        self._online_since = float("inf")
        if how == "killed":
            os.killpg(self._browser.process_id, signal.SIGKILL)
        elif how == "closed":
            await self._tab.page.close()
        else:
            await self._tab.page.reload()
        await self.empty()

    async def empty(self) -> None:
        self._online_since = float("inf")
        if self._browser is not None:
            await self._browser.close()
            self._browser = None


class Soak:
    """The swarm, its users and what happens to it; ``seed`` decides which tab ends when and how."""

    def __init__(self, url: str, model: Path, spans: Sequence[str], seed: int) -> None:
        self.report = Report()
        self._sessions: set[ChainSession] = set()
        self._filling: set[asyncio.Task[None]] = set()
        self._random = random.Random(seed)
        self._model = open_model(model)
        self._head: LanguageHead = self._model.load_head()
        self._engine = NumpyEngine()
        self.places = [Place(url, blocks) for blocks in spans]

    async def open(self) -> None:
        await load_span(self._model.manifest, ALL, self._model.source, MemoryStore(), self._engine)
        await asyncio.gather(*(place.fill() for place in self.places))

    async def take_away(self, pause: float) -> None:
        """End one tab after another, for ever; most of them are at work."""
        while True:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * pause)
            at_work = {str(hop.peer) for session in self._sessions for hop in session.hops}
            busy = [place for place in self.places if place.holds and place.peer in at_work]
            chosen = busy if busy and self._random.random() < 0.8 else self.places
            place = self._random.choice(chosen)
            others = set[int]().union(*(other.holds for other in self.places if other is not place))
            if place.holds and len(others) == len(ALL):
                how = self._random.choice(("killed", "killed", "closed", "reloaded"))
                self.report.ended[how] += 1
                await place.end(how)
                self._filling.add(asyncio.ensure_future(place.fill()))

    async def close(self) -> None:
        """End every browser."""
        for task in self._filling:
            task.cancel()
        await asyncio.gather(*self._filling, return_exceptions=True)
        await asyncio.gather(*(place.empty() for place in self.places))

    async def use(self, client: Client, is_over: Callable[[Report], bool]) -> None:
        """Generate one text after another."""
        while not is_over(self.report):
            prompt = [self._random.randrange(SMALL.vocab_size) for _ in range(self._random.randint(2, 30))]
            chances = [self._random.random() for _ in range(self._random.randint(20, 120))]
            await self._generate(client, prompt, chances)

    async def _generate(self, client: Client, prompt: Sequence[int], chances: Sequence[float]) -> None:
        got: list[int] = []
        self.report.sessions += 1
        try:
            async with client.session(len(prompt) + len(chances)) as session:
                self._sessions.add(session)
                draw = iter(chances).__next__
                before = time.monotonic()
                tokens = generate(session, self._head, prompt, len(chances), sampling=SAMPLING, chance=draw)
                async for token in tokens:
                    now = time.monotonic()
                    self.report.gaps.append(now - before)
                    before = now
                    got.append(token)
                self.report.failovers += session.failovers
                self._sessions.discard(session)
        except (KwaaiNetError, TimeoutError) as error:
            self.report.lost.append(f"after {len(got)} tokens: {error!r}")
        self.report.tokens += len(got)
        if got != (expected := await self._expected(prompt, chances[: len(got)])):
            self.report.wrong.append(f"{got} instead of {expected}")

    async def _expected(self, prompt: Sequence[int], chances: Sequence[float]) -> list[int]:
        cache = await self._engine.open_cache(1, len(prompt) + len(chances) + 1)
        hidden, tokens = self._head.embed(prompt), list[int]()
        for chance in chances:
            output = await self._engine.run(cache, hidden)
            tokens.append(choose(self._head.logits(output[0, -1]), SAMPLING, chance))
            hidden = self._head.embed(tokens[-1:])
        await self._engine.close_cache(cache)
        return tokens


async def soak(
    origin: dict[str, str],
    model: Path,
    is_over: Callable[[Report], bool],
    *,
    spans: Sequence[str] = SPANS,
    users: int = 2,
    pause: float = 5.0,
    seed: int = 0,
) -> Report:
    """Let ``users`` generate until ``is_over``, while about every ``pause`` seconds a tab is taken away."""
    swarm = Soak(origin["http"], model, spans, seed)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(swarm.close)
        await swarm.open()
        peer = await stack.enter_async_context(joined(origin["tcp"]))
        client = peer.client(PREFIX, len(ALL))
        ending = asyncio.ensure_future(swarm.take_away(pause))
        try:
            await asyncio.gather(*(swarm.use(client, is_over) for _ in range(users)))
        finally:
            ending.cancel()
            await asyncio.wait({ending})
        if not ending.cancelled():
            ending.result()
    return swarm.report


def main() -> int:
    """From the command line; the exit code is 1 if a token was wrong or a session lost."""
    parser = argparse.ArgumentParser(prog="browser.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--users", type=int, default=2)
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between two losses, about")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kwaainet-soak-") as name:
        folder = Path(name)
        model = write_small_model(folder / "model")
        with relay(folder, "--model", model, "--prefix", PREFIX) as origin:
            until: list[float] = []

            def is_over(report: Report) -> bool:
                if not until:  # the tabs are up: time runs from here
                    until.append(time.monotonic() + asked.seconds)
                return time.monotonic() > until[0]

            report = asyncio.run(
                soak(origin, model, is_over, users=asked.users, pause=asked.pause, seed=asked.seed)
            )
    print(report)
    for line in report.wrong + report.lost:
        print(line)
    return 1 if report.wrong or report.lost else 0


if __name__ == "__main__":
    sys.exit(main())

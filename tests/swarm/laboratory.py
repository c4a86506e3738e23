"""A swarm in memory to be hard on: one relay, tabs that come and go, users who generate all the time.

The tabs are real ``ServerNode``s, the users real ``Client``s, the relay a real DHT node and announcer;
only hosts and engines are in memory. Rule of the file: one seed is one history. The laboratory knows
who is well, so it can tell a session that had to be lost from one that had not.

``PYTHONPATH=tests python -m swarm.laboratory --seeds 20`` plays more histories than the tests do.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from swarm.history_engine import (
    BLOCKS,
    CONFIG,
    FILES,
    HEAD,
    MANIFEST,
    SAMPLING,
    HistoryEngine,
    reference,
    reference_engine,
)

from kwaainet.errors import KwaaiNetError
from kwaainet.node.announce import AnnounceHandler, RelayAnnouncer
from kwaainet.node.client import Client, generate
from kwaainet.node.client_options import ClientOptions
from kwaainet.node.config import NodeConfig
from kwaainet.node.dht import DhtNode
from kwaainet.node.directory import dht_reader
from kwaainet.node.server import ServerNode
from kwaainet.testing.clock import EPOCH, now, run
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange, PeerId

PREFIX = "tiny"
CACHE_TOKENS = 4096
SETTLED = 5.0  # seconds after ONLINE from which a node counts as a holder that users can know of
AFTERMATH = 400.0  # seconds after which nothing of a session may be left anywhere
HOW = {"killed": 8, "left": 4, "silent": 3, "hung": 2, "lying": 1, "slow": 2}  # and how often


@dataclass(eq=False)
class Tab:
    """A node, and what the laboratory did to it."""

    node: ServerNode
    host: MemoryHost
    engine: HistoryEngine
    blocks: BlockRange
    online_since: float = float("inf")
    silent: bool = False
    apart: bool = False

    @property
    def is_well(self) -> bool:
        """Whether a user's session can rely on it."""
        settled = now() - self.online_since >= SETTLED
        return settled and self.engine.mood == "fine" and not (self.silent or self.apart)


@dataclass
class Record:
    """What came of it all."""

    tokens: int = 0
    sessions: int = 0
    failovers: int = 0
    gaps: list[float] = field(default_factory=list, repr=False)  # seconds, of sessions with fail-overs
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)  # though each of their blocks had a holder all the time
    excused: list[str] = field(default_factory=list)  # lost while some block had no holder
    done_to: Counter[str] = field(default_factory=Counter)
    left_over: list[str] = field(default_factory=list)


class Laboratory:
    """Made by ``play``. Everything random comes from ``seed``."""

    def __init__(self, seed: int, latency: float, loss: float) -> None:
        self.random = random.Random(seed)
        self.network = MemoryNetwork(seed, latency=latency, loss=loss)
        self.record = Record()
        self.tabs: list[Tab] = []
        self._relay = self.network.host()
        self._dht = DhtNode(self._relay, now=now, random_bytes=self.network.random.randbytes)
        self._announcements = AnnounceHandler(self._relay, self._dht, self._is_connected, now)
        self._relay.on_peer_lost(self._announcements.peer_lost)
        self.users: list[MemoryHost] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._covered_since: float = float("inf")
        self._quiet = False

    def _is_connected(self, peer: PeerId) -> bool:
        return peer in self._relay.connected_peers

    async def open(self) -> None:
        await self._relay.listen()
        self._reference = await reference_engine()

    # --- tabs -------------------------------------------------------------------------------------

    async def add_tab(self, seconds_per_run: float = 0.01) -> None:
        """A tab of one to four blocks, the one held least among them, started."""
        held = Counter(block for tab in self.tabs for block in range(tab.blocks.start, tab.blocks.end))
        rarest = min(range(BLOCKS), key=lambda block: (held[block], self.random.random()))
        length = self.random.randint(1, 4)
        first = min(max(0, rarest - self.random.randrange(length)), BLOCKS - length)
        blocks = BlockRange(first, first + length)
        host, engine = self.network.host(), HistoryEngine(seconds_per_run)
        node = ServerNode(
            NodeConfig(PREFIX, blocks, cache_tokens=CACHE_TOKENS),
            host=host,
            engine=engine,
            store=MemoryStore(),
            source=MemorySource(FILES),
            manifest=MANIFEST,
            announcer=RelayAnnouncer(host, self._relay.peer_id),
            now=now,
        )
        tab = Tab(node, host, engine, blocks)
        self.tabs.append(tab)
        while True:
            try:
                await node.start()
            except (KwaaiNetError, TimeoutError):  # the announcement was lost: a contributor tries again
                self.tabs.remove(tab)
                return self.later(1.0, self.add_tab(seconds_per_run))
            break
        tab.online_since = now()

    async def lose(self, tab: Tab, how: str) -> None:
        """One of ``HOW``; a tab that ends is replaced after a while."""
        self.record.done_to[how] += 1
        if how == "killed":
            await self._end(tab)
        elif how == "left":
            tab.online_since = float("inf")
            self.tabs.remove(tab)
            await tab.node.stop(drain=30.0)
        elif how == "silent":
            tab.silent = True
            self.network.freeze(tab.host.peer_id)
            await asyncio.sleep(self.random.uniform(5.0, 60.0))
            self.network.thaw(tab.host.peer_id)
            tab.silent, tab.online_since = False, now()
            return
        elif how == "slow":
            tab.engine.seconds_per_run *= 50
            return
        else:
            tab.engine.mood = how
            tab.online_since = float("inf")
            await asyncio.sleep(60.0)
            await self._end(tab)
        if not self._quiet:
            await asyncio.sleep(self.random.uniform(0.5, 5.0))
            await self.add_tab()

    async def _end(self, tab: Tab) -> None:
        """A process that is killed says nothing."""
        if tab in self.tabs:
            self.tabs.remove(tab)
        tab.online_since = float("inf")
        self.network.vanish(tab.host.peer_id)
        await tab.node.stop()

    async def churn(self, per_minute: float, seconds: float) -> None:
        """Each minute that share of the tabs is lost, one way or another; every other one is at work."""
        until = now() + seconds
        while now() < until:
            await asyncio.sleep(self.random.expovariate(per_minute * len(self.tabs) / 60.0))
            busy = [tab for tab in self.tabs if tab.engine.open_caches]
            tab = self.random.choice(busy if busy and self.random.random() < 0.5 else self.tabs)
            how = self.random.choices(list(HOW), list(HOW.values()))[0]
            self.later(0.0, self.lose(tab, how))

    async def split(self, share: float, seconds: float) -> None:
        """Cut some tabs off from everybody else for a while."""
        away = self.random.sample(self.tabs, int(share * len(self.tabs)))
        self.record.done_to["apart"] += len(away)
        for tab in away:
            tab.apart = True
        rest = [tab.host.peer_id for tab in self.tabs if not tab.apart]
        self.network.partition(
            [tab.host.peer_id for tab in away],
            [*rest, self._relay.peer_id, *(user.peer_id for user in self.users)],
        )
        await asyncio.sleep(seconds)
        self.network.heal()
        for tab in away:
            tab.apart, tab.online_since = False, now()

    # --- users ------------------------------------------------------------------------------------

    async def use(self, seconds: float, options: ClientOptions) -> None:
        """A user who generates one text after another, and compares."""
        host = self.network.host()
        self.users.append(host)
        client = Client(
            host, dht_reader(self._dht), PREFIX, BLOCKS,
            now=now, random_bytes=self.network.random.randbytes, options=options,
        )  # fmt: skip
        until = now() + seconds
        while now() < until:
            prompt = [self.random.randrange(CONFIG.vocab_size) for _ in range(self.random.randint(2, 12))]
            await self._generate(client, prompt, self.random.randint(4, 24))
            await asyncio.sleep(self.random.uniform(0.0, 2.0))

    async def _generate(self, client: Client, prompt: Sequence[int], count: int) -> None:
        chances = [self.random.random() for _ in range(count)]
        expected = await reference(self._reference, prompt, chances)
        got: list[int] = []
        waiting_since = now()
        waits: list[float] = []  # for each token behind the first
        self.record.sessions += 1
        try:
            async with client.session(len(prompt) + count) as session:
                chosen = generate(
                    session, HEAD, prompt, count, sampling=SAMPLING, chance=iter(chances).__next__
                )
                async for token in chosen:
                    if got:
                        waits.append(now() - waiting_since)
                    got.append(token)
                    waiting_since = now()
                self.record.failovers += session.failovers
                if session.failovers and waits:
                    self.record.gaps.append(max(waits))
        except (KwaaiNetError, TimeoutError) as error:
            kept = self._covered_since <= waiting_since - SETTLED
            text = f"at {now() - EPOCH:.1f} s after {now() - waiting_since:.1f} s: {error!r}"
            (self.record.lost if kept else self.record.excused).append(text)
        else:
            self.record.tokens += len(got)
        if got != expected[: len(got)]:
            self.record.wrong.append(f"at {now() - EPOCH:.1f} s: {got} instead of {expected}")

    # --- the laboratory itself --------------------------------------------------------------------

    async def watch(self) -> None:
        """Note since when every block has had a holder without a break."""
        while True:
            well = set[int]().union(
                *(range(one.blocks.start, one.blocks.end) for one in self.tabs if one.is_well)
            )
            if len(well) < BLOCKS:
                self._covered_since = float("inf")
            elif self._covered_since == float("inf"):
                self._covered_since = now()
            await asyncio.sleep(0.25)

    def later(self, delay: float, work: Coroutine[Any, Any, None]) -> None:
        """Do this beside everything else; ``settle`` waits for it."""

        async def waited() -> None:
            await asyncio.sleep(delay)
            await work

        task = asyncio.ensure_future(waited())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Let everything end, and note what did not."""
        self._quiet = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.sleep(AFTERMATH)
        left = self.record.left_over
        for tab in self.tabs:
            status = tab.node.status
            if status.sessions or tab.engine.open_caches or status.cache_tokens_left != CACHE_TOKENS:
                left.append(
                    f"{status.sessions} sessions, {len(tab.engine.open_caches)} caches at {tab.host.peer_id}"
                )
        await asyncio.gather(*(tab.node.stop() for tab in self.tabs))
        for user in self.users:
            await user.close()
        await self._dht.close()
        await self._relay.close()


@dataclass(frozen=True)
class History:
    """What is played; times are virtual seconds, ``churn`` a share of the tabs per minute."""

    tabs: int
    users: int
    seconds: float
    churn: float
    loss: float = 0.01
    latency: float = 0.02
    split: float = 0.0  # this share of the tabs is cut off for a fifth of the time
    options: ClientOptions = field(default_factory=ClientOptions)


def play(history: History, seed: int) -> Record:
    """Play one history to its end and say what came of it."""

    async def main() -> Record:
        laboratory = Laboratory(seed, history.latency, 0.0)
        await laboratory.open()
        await asyncio.gather(*(laboratory.add_tab() for _ in range(history.tabs)))
        watching = asyncio.ensure_future(laboratory.watch())
        await asyncio.sleep(2 * SETTLED)
        laboratory.network.loss = history.loss
        for _ in range(history.users):
            laboratory.later(0.0, laboratory.use(history.seconds, history.options))
        if history.churn:
            laboratory.later(0.0, laboratory.churn(history.churn, history.seconds))
        if history.split:
            laboratory.later(history.seconds / 3, laboratory.split(history.split, history.seconds / 5))
        await laboratory.settle()
        watching.cancel()
        return laboratory.record

    return run(main())


def main() -> None:
    """More histories than the tests play, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("seeds", 5), ("first", 100), ("tabs", 200), ("users", 8), ("seconds", 300)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--churn", type=float, default=0.3)
    parser.add_argument("--split", type=float, default=0.2)
    asked = parser.parse_args()
    history = History(asked.tabs, asked.users, asked.seconds, asked.churn, split=asked.split)
    for seed in range(asked.first, asked.first + asked.seeds):
        started = time.perf_counter()
        record = play(history, seed)
        middle, late, most = np.quantile(record.gaps or [0.0], (0.5, 0.95, 1.0))
        print(f"seed {seed}: {record} in {time.perf_counter() - started:.1f} s", flush=True)
        print(f"  gaps p50 / p95 / longest: {middle:.2f} / {late:.2f} / {most:.2f} s", flush=True)


if __name__ == "__main__":
    main()

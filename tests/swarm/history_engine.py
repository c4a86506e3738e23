"""An engine for simulations: every number it gives depends on all that went before, cheaply and exactly.

Rule of the file: float32 in one fixed order, so that a history replayed in other pieces, or through
spans cut elsewhere, gives the same bits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kwaainet.errors import EngineError
from kwaainet.inference.cache import CacheTable
from kwaainet.inference.head import LanguageHead
from kwaainet.inference.sampling import Sampling, choose
from kwaainet.node.model import load_span
from kwaainet.ports import Floats
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange, SpanShape

BLOCKS = 8
CONFIG = replace(
    TINY,
    num_hidden_layers=BLOCKS,
    hidden_size=8,
    intermediate_size=8,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=48,
    max_position_embeddings=64,
)
MANIFEST, FILES = random_model(CONFIG)
_EMBEDDING = np.random.default_rng(7).uniform(-1, 1, (CONFIG.vocab_size, CONFIG.hidden_size)).astype("f4")
# all of the distribution, so that a small difference in the logits soon shows in a token
SAMPLING = Sampling(temperature=1.0)
HEAD = LanguageHead(_EMBEDDING, np.ones(CONFIG.hidden_size, np.float32), _EMBEDDING[::-1].copy(), 1e-6)


class HistoryEngine:
    """An engine whose every output depends on all that went before, cheap and exact.

    A block adds up its inputs position by position: a step computed at a wrong position, through a
    wrong block or on a wrong history shows in every later number, and a replay gives the same bits
    however it is cut. ``mood``: fine, hung (no run ends), lying (answers are not finite).
    """

    backend = "cpu"
    graphs = "onnx"

    def __init__(self, seconds_per_run: float) -> None:
        self.seconds_per_run = seconds_per_run
        self.mood = "fine"
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._norms: dict[str, Floats] = {}
        self._salts: list[np.float32] = []
        self._caches: CacheTable[list[Floats]] | None = None
        self.open_caches: set[int] = set()

    async def add_tensor(self, name: str, array: NDArray[Any]) -> None:
        self._norms[name] = array

    async def build(self, graph: bytes, shape: SpanShape) -> None:
        means = [self._norms[shape.switches_of(index)[0]].mean() for index in range(shape.blocks)]
        self._salts = [np.float32(min(2.0, max(1.4, 1.7 + 2 * (float(mean) - 1)))) for mean in means]
        self._norms = {}
        self._caches = CacheTable(shape)

    async def open_cache(self, batch: int, max_length: int, blocks: BlockRange | None = None) -> int:
        caches = self._built()
        blocks = caches.check(batch, max_length, blocks)
        sums = [np.zeros((batch, max_length + 1, caches.shape.hidden_size), np.float32) for _ in self._salts]
        handle = caches.add(batch, max_length, blocks, sums)
        self.open_caches.add(handle)
        return handle

    async def run(self, cache: int, hidden: Floats) -> Floats:
        await self._pass_time()
        return self._compute(cache, hidden)

    async def run_many(self, steps: Sequence[tuple[int, Floats]]) -> list[Floats]:
        await self._pass_time()
        return [self._compute(cache, hidden) for cache, hidden in steps]

    async def truncate(self, cache: int, length: int) -> None:
        self._built()[cache].truncate(length)

    async def reorder(self, cache: int, rows: Sequence[int]) -> None:
        entry = self._built()[cache]
        entry.check_rows(rows)
        entry.storage = [sums[list(rows)] for sums in entry.storage]

    async def close_cache(self, cache: int) -> None:
        self.open_caches.discard(cache)
        if self._caches is not None:
            self._caches.remove(cache)

    async def close(self) -> None:
        self._caches, self._norms = None, {}
        self.open_caches.clear()
        if not self._closed.done():
            self._closed.set_exception(EngineError("the engine was closed"))
            self._closed.exception()  # looked at, even if no run waits for it

    def _built(self) -> CacheTable[list[Floats]]:
        if self._caches is None:
            raise EngineError("the engine has no graph")
        return self._caches

    async def _pass_time(self) -> None:
        if self.mood == "hung":
            await asyncio.shield(self._closed)
        await asyncio.sleep(self.seconds_per_run)

    def _compute(self, cache: int, hidden: Floats) -> Floats:
        caches = self._built()
        entry = caches[cache]
        caches.plan(entry, hidden)
        if self.mood == "lying":
            hidden = hidden * np.float32(np.nan)
        start, tokens = entry.length, hidden.shape[1]
        for index in range(entry.blocks.start, entry.blocks.end):
            sums = entry.storage[index]
            added = np.concatenate([sums[:, start : start + 1], hidden], axis=1)
            sums[:, start : start + tokens + 1] = np.cumsum(added, axis=1, dtype=np.float32)
            counts = np.arange(start + 1, start + tokens + 1, dtype=np.float32)[:, None]
            mean = sums[:, start + 1 : start + tokens + 1] / counts
            mixed = np.float32(0.6) * hidden + np.float32(0.4) * np.roll(mean, 1, axis=-1)
            hidden = np.float32(1.0) - self._salts[index] * mixed * mixed  # stays within -1 and 1
        entry.length += tokens
        return np.asarray(hidden, np.float32)


async def reference_engine() -> HistoryEngine:
    """All blocks in one engine: what the model says on its own."""
    engine = HistoryEngine(0.0)
    await load_span(MANIFEST, BlockRange(0, BLOCKS), MemorySource(FILES), MemoryStore(), engine)
    return engine


async def reference(engine: HistoryEngine, prompt: Sequence[int], chances: Sequence[float]) -> list[int]:
    """Tokens without any swarm, one for each number drawn."""
    cache = await engine.open_cache(1, len(prompt) + len(chances))
    hidden, tokens = HEAD.embed(prompt), list[int]()
    for chance in chances:
        output = await engine.run(cache, hidden)
        tokens.append(choose(HEAD.logits(output[0, -1]), SAMPLING, chance))
        hidden = HEAD.embed(tokens[-1:])
    await engine.close_cache(cache)
    return tokens

"""The engine of a served span, shared out among sessions: its caches, its budget, its loss.

Rule of the file: nobody else calls the engine while it serves. Whatever ends a session, its cache
goes back at once; after a lost device no old cache handle ever reaches the rebuilt engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np

from ..errors import UNAVAILABLE, DeviceLost, StreamReset, Unavailable
from ..ports import Engine, Floats
from ..types import BlockRange
from .admission import Admission

_LOST = f"{UNAVAILABLE}the device this session was computed on was lost; open a new session"


class ServedSpan:
    """Runs hidden states [batch, n, hidden] through the span once ``resume`` gave it an engine.

    ``max_run_tokens`` (batch x n) bounds one run, so that a long prompt does not hold up others.
    ``on_device_lost`` is called once for each loss.
    """

    def __init__(
        self, admission: Admission, max_run_tokens: int, on_device_lost: Callable[[DeviceLost], None]
    ) -> None:
        self.admission = admission
        self.max_run_tokens = max_run_tokens
        self.tokens_done = 0
        self._on_device_lost = on_device_lost
        self._engine: Engine | None = None
        self._pause = "the server is still loading its blocks; try later"
        self._caches: dict[SpanCache, None] = {}

    def resume(self, engine: Engine) -> None:
        """Serve on this engine, which is built."""
        self._engine = engine

    def suspend(self, why: str) -> None:
        """Refuse requests with this text, and end the sessions there are."""
        self._engine, self._pause = None, why
        for cache in list(self._caches):
            cache.lose()

    @asynccontextmanager
    async def open_cache(
        self, batch: int, max_length: int, timeout: float, blocks: BlockRange | None = None
    ) -> AsyncIterator[SpanCache]:
        """A cache for ``batch`` rows of ``max_length`` positions, waited for up to ``timeout`` s.

        ``blocks`` are those to run, counted from the span's start; all of them unless said.
        Raises ``Unavailable`` if the span has no engine now or no room in time, or ``CapacityError``.
        """
        self._serving()
        async with self.admission.admit(batch * max_length, timeout):
            engine = self._serving()
            handle = await _open(engine, batch, max_length, blocks)
            cache = SpanCache(self, engine, handle)
            self._caches[cache] = None
            try:
                yield cache
            finally:
                self._caches.pop(cache, None)
                if not cache.lost:
                    await engine.close_cache(handle)

    async def forward(self, hidden: Floats, timeout: float, blocks: BlockRange | None = None) -> Floats:
        """hidden [batch, n, hidden] -> the same shape, each row on its own from position 0.

        ``blocks`` as for ``open_cache``.
        """
        batch, tokens = hidden.shape[:2]
        if tokens == 0:
            return hidden
        rows = max(1, self.max_run_tokens // tokens)
        outputs = []
        for first in range(0, batch, rows):
            part = hidden[first : first + rows]
            async with self.open_cache(len(part), tokens, timeout, blocks) as cache:
                outputs.append(await cache.run(part))
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def device_lost(self, error: DeviceLost) -> None:
        """Called by a cache whose run found the device gone; the first call counts."""
        if self._engine is not None:
            self.suspend("the server lost its device and is rebuilding; try later")
            self._on_device_lost(error)

    def _serving(self) -> Engine:
        if self._engine is None:
            raise Unavailable(self._pause)
        return self._engine


class SpanCache:
    """One session's cache on the engine; every call raises ``DeviceLost`` once that is gone."""

    def __init__(self, span: ServedSpan, engine: Engine, handle: int) -> None:
        self._span, self._engine, self._handle = span, engine, handle
        self.lost = False
        self.on_lost: Callable[[DeviceLost], None] = lambda error: None

    def lose(self) -> None:
        """The engine no longer has this cache."""
        if not self.lost:
            self.lost = True
            self.on_lost(DeviceLost(_LOST))

    async def run(self, hidden: Floats, is_wanted: Callable[[], bool] = lambda: True) -> Floats:
        """Append hidden's positions, n >= 1; ``is_wanted`` is asked between runs.

        Raises ``EngineError``, ``DeviceLost``, or ``StreamReset`` when nobody wants the rest.
        """
        batch, tokens = hidden.shape[:2]
        size = max(1, self._span.max_run_tokens // batch)
        outputs = []
        for first in range(0, tokens, size):
            if first and not is_wanted():
                raise StreamReset("the caller left before its request was done")
            outputs.append(await self._run(np.ascontiguousarray(hidden[:, first : first + size])))
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1)

    async def _run(self, hidden: Floats) -> Floats:
        self._check()
        try:
            output = await self._engine.run(self._handle, hidden)
        except DeviceLost as error:
            self._span.device_lost(error)
            raise DeviceLost(_LOST) from error
        self._span.tokens_done += hidden.shape[0] * hidden.shape[1]
        return output

    async def truncate(self, length: int) -> None:
        """Roll back to the first ``length`` positions."""
        self._check()
        await self._engine.truncate(self._handle, length)

    async def reorder(self, rows: Sequence[int]) -> None:
        """Row i becomes what row ``rows[i]`` was."""
        self._check()
        await self._engine.reorder(self._handle, rows)

    def _check(self) -> None:
        if self.lost:
            raise DeviceLost(_LOST)


async def _open(engine: Engine, batch: int, max_length: int, blocks: BlockRange | None) -> int:
    """Open a cache; a caller cancelled meanwhile does not leave one behind."""
    opening = asyncio.ensure_future(engine.open_cache(batch, max_length, blocks))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        await engine.close_cache(await opening)
        raise

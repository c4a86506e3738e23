"""The engine of a served span, shared out among sessions: its caches, its budget, its loss.

Rule of the file: nobody but ``turns`` and this file calls the engine while it serves. Whatever ends
a session, its cache goes back at once; after a lost device no old cache handle ever reaches the rebuilt
engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np

from ..errors import UNAVAILABLE, DeviceLost, KwaaiNetError, Paused, Unavailable
from ..inference.scheduler import MAX_CHUNK
from ..ports import Engine, Floats
from ..types import BlockRange, PeerId
from .admission import Admission, Grant
from .pacing import Pace
from .turns import Turns

_LOST = f"{UNAVAILABLE}the device this session was computed on was lost; open a new session"


class ServedSpan:
    """Runs hidden states [batch, n, hidden] through the span once ``resume`` gave it an engine.

    ``max_run_tokens`` (batch x n) bounds one run; others' steps come between the runs of a long prompt
    (``inference.scheduler``). ``on_device_lost`` is called once for each loss.
    """

    def __init__(
        self,
        admission: Admission,
        max_run_tokens: int,
        on_device_lost: Callable[[DeviceLost], None],
        pace: Pace | None = None,
    ) -> None:
        self.admission = admission
        self.max_run_tokens = max_run_tokens
        self.tokens_done = 0
        self._on_device_lost = on_device_lost
        self._pace = pace or Pace()
        self._turns: Turns | None = None
        self._requests_before = 0  # on engines that were lost
        self._refusal = "the server is still loading its blocks; try later"
        self._paused = ""  # why, while it is
        self._caches: dict[SpanCache, None] = {}

    def resume(self, engine: Engine) -> None:
        """Serve on this engine, which is built."""
        most = min(self.max_run_tokens, MAX_CHUNK)
        self._turns = Turns(engine, most, self._count, self._device_lost, self._pace)

    @property
    def requests_done(self) -> int:
        """Steps and prompts that were answered."""
        return self._requests_before + (self._turns.requests_done if self._turns is not None else 0)

    def pause(self, why: str) -> None:
        """Compute nothing from now on: end the sessions there are, and refuse requests, with this text.

        The engine stays as it is until ``unpause``; what it computes at the moment is for nobody.
        """
        self._paused = why
        self._end_all(Paused(why))

    def unpause(self) -> None:
        """Serve again."""
        self._paused = ""

    def look_again(self) -> None:
        """The pace has changed."""
        if self._turns is not None:
            self._turns.look_again()

    def suspend(self, why: str, ending: KwaaiNetError | None = None) -> None:
        """Refuse requests with this text, and end the sessions there are with it or with ``ending``."""
        self._end_all(ending or Unavailable(why))
        self._requests_before = self.requests_done
        self._turns, self._refusal = None, why

    def _end_all(self, ending: KwaaiNetError) -> None:
        for cache in list(self._caches):
            cache.end(ending)
        if self._turns is not None:
            self._turns.fail_all(ending)

    @asynccontextmanager
    async def open_cache(
        self,
        batch: int,
        max_length: int,
        timeout: float,
        blocks: BlockRange | None = None,
        peer: PeerId | None = None,
        request_id: str = "",
    ) -> AsyncIterator[SpanCache]:
        """A cache for ``batch`` rows of ``max_length`` positions, waited for up to ``timeout`` s.

        ``blocks`` are those to run, counted from the span's start; all of them unless said. ``peer``
        is for whom: turns and room are shared out by peer. Raises ``Unavailable`` if the span has
        no engine now, no room in time, or this peer has its share already; or ``CapacityError``.
        """
        self._serving()
        async with self.admission.admit(batch * max_length, timeout, peer) as grant:
            turns = self._serving()
            handle = await _open(turns.engine, batch, max_length, blocks)
            cache = SpanCache(turns, handle, peer, grant)
            self._caches[cache] = None
            try:
                yield cache
            finally:
                self._caches.pop(cache, None)
                turns.forget(cache)
                if turns is self._turns:
                    await asyncio.shield(turns.engine.close_cache(handle))

    async def forward(
        self, hidden: Floats, timeout: float, blocks: BlockRange | None = None, peer: PeerId | None = None
    ) -> Floats:
        """hidden [batch, n, hidden] -> the same shape, each row on its own from position 0.

        ``blocks`` and ``peer`` as for ``open_cache``.
        """
        batch, tokens = hidden.shape[:2]
        if tokens == 0:
            return hidden
        rows = max(1, self.max_run_tokens // tokens)
        outputs = []
        for first in range(0, batch, rows):
            part = hidden[first : first + rows]
            async with self.open_cache(len(part), tokens, timeout, blocks, peer) as cache:
                outputs.append(await cache.run(part))
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def _device_lost(self, error: DeviceLost) -> None:
        """A run found the device gone; the first counts."""
        if self._turns is not None:
            self.suspend("the server lost its device and is rebuilding; try later", DeviceLost(_LOST))
            self._on_device_lost(error)

    def _count(self, tokens: int) -> None:
        self.tokens_done += tokens

    def _serving(self) -> Turns:
        if self._paused:
            raise Paused(self._paused)
        if self._turns is None:
            raise Unavailable(self._refusal)
        return self._turns


class SpanCache:
    """One session's cache on the engine. Once its device is lost, or others got its room because it lay
    idle, every call raises ``DeviceLost`` or ``Unavailable``, and ``on_lost`` has been told.
    """

    def __init__(self, turns: Turns, handle: int, peer: PeerId | None, grant: Grant) -> None:
        self._turns, self._handle, self._peer, self._grant = turns, handle, peer, grant
        self._ended: KwaaiNetError | None = None
        self.on_lost: Callable[[KwaaiNetError], None] = lambda error: None
        grant.on_revoked = self.end

    def end(self, error: KwaaiNetError) -> None:
        """The cache can no longer be used, because of this."""
        if self._ended is None:
            self._ended = error
            self.on_lost(error)

    async def run(self, hidden: Floats, is_wanted: Callable[[], bool] = lambda: True) -> Floats:
        """Append hidden's positions, n >= 1; ``is_wanted`` is asked between runs.

        Raises ``EngineError``, ``DeviceLost``, or ``StreamReset`` when nobody wants the rest. After
        being cancelled the cache may hold some of the positions.
        """
        self._check()
        with self._grant.in_use():
            try:
                return await self._turns.run(self, self._peer, self._handle, hidden, is_wanted)
            except DeviceLost as error:
                raise DeviceLost(_LOST) from error

    async def truncate(self, length: int) -> None:
        """Roll back to the first ``length`` positions."""
        self._check()
        await self._turns.engine.truncate(self._handle, length)

    async def reorder(self, rows: Sequence[int]) -> None:
        """Row i becomes what row ``rows[i]`` was."""
        self._check()
        await self._turns.engine.reorder(self._handle, rows)

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended


async def _open(engine: Engine, batch: int, max_length: int, blocks: BlockRange | None) -> int:
    """Open a cache; a caller cancelled meanwhile does not leave one behind."""
    opening = asyncio.ensure_future(engine.open_cache(batch, max_length, blocks))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        await engine.close_cache(await opening)
        raise

"""The books an engine keeps of its KV caches: handles, sizes, lengths, and what a run may do.

Rule of the file: no tensor is touched here. An adapter of the Engine port keeps its own memory in
``Cache.storage``, asks here whether a request is sound, and advances ``length`` when a run is done.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..errors import CapacityError, EngineError
from ..ports import Floats
from ..types import BlockRange, SpanShape

MAX_BATCH = 1024
# A tab's worker and a shared processor must stay responsive: other sessions' steps, and the answers
# to pings, come between the pieces of a long run. Fewer positions would read the weights too often.
MAX_TOKENS = 128
# The attention of a piece may hold scores of this many floats (64 MiB).
MAX_SCORES = 1 << 24

Storage = TypeVar("Storage")


@dataclass(slots=True, eq=False)
class Cache(Generic[Storage]):
    """One cache: ``batch`` rows of up to ``max_length`` positions, all of them ``length`` long.

    Its runs go through ``blocks``, counted from the span's start. Where ``storage`` is shared, its
    rows are those from ``first_row`` on.
    """

    batch: int
    max_length: int
    blocks: BlockRange
    storage: Storage
    length: int = 0
    first_row: int = 0

    @property
    def end_row(self) -> int:
        """The row of its storage after its last."""
        return self.first_row + self.batch

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` positions; ``EngineError`` if there are fewer."""
        if not 0 <= length <= self.length:
            raise EngineError(f"cannot roll a cache of {self.length} positions back to {length}")
        self.length = length

    def check_rows(self, rows: Sequence[int]) -> None:
        """``EngineError`` unless ``rows`` names an existing row for each row of the batch."""
        if len(rows) != self.batch or not all(0 <= row < self.batch for row in rows):
            raise EngineError(f"rows {list(rows)[:16]} do not reorder a cache of {self.batch} rows")


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a run that fits one call of the graph: rows, and new positions, as half-open ranges."""

    first_row: int
    end_row: int
    first: int
    end: int


class CacheTable(Generic[Storage]):
    """The open caches of one engine."""

    def __init__(self, shape: SpanShape) -> None:
        self.shape = shape
        self._caches: dict[int, Cache[Storage]] = {}
        self._handles = itertools.count(1)

    def check(self, batch: int, max_length: int, blocks: BlockRange | None) -> BlockRange:
        """The blocks to run, all of the span's by default.

        ``CapacityError`` if no cache of that size can exist for this span, ``EngineError`` if the
        blocks are not all in it.
        """
        if not 1 <= batch <= MAX_BATCH:
            raise CapacityError(f"a cache of {batch} rows was asked for; 1 to {MAX_BATCH} are allowed")
        if not 1 <= max_length <= self.shape.max_positions:
            raise CapacityError(
                f"a cache of {max_length} positions was asked for; "
                f"the model knows 1 to {self.shape.max_positions}"
            )
        whole = BlockRange(0, self.shape.blocks)
        if blocks is not None and blocks.end > whole.end:
            raise EngineError(f"blocks {blocks} are not all in the span, which has blocks {whole}")
        return blocks or whole

    def add(self, batch: int, max_length: int, blocks: BlockRange, storage: Storage) -> int:
        """Enter an empty cache; returns its handle."""
        handle = next(self._handles)
        self._caches[handle] = Cache(batch, max_length, blocks, storage)
        return handle

    def __getitem__(self, handle: int) -> Cache[Storage]:
        cache = self._caches.get(handle)
        if cache is None:
            raise EngineError(f"cache {handle} is not open (closed, or lost with its device)")
        return cache

    def remove(self, handle: int) -> Cache[Storage] | None:
        """Take a cache out of the books; ``None`` if it is not in them."""
        return self._caches.pop(handle, None)

    def plan(self, cache: Cache[Storage], hidden: Floats) -> list[Piece]:
        """Cut a run into pieces, in the order they must be run.

        Several rows can bring several positions in one piece only to an empty cache (a rule of
        onnxruntime's attention); a piece stays within ``MAX_TOKENS`` and ``MAX_SCORES``.
        Raises ``EngineError`` (a shape or dtype that does not fit) or ``CapacityError`` (no room).
        """
        self.check_run(cache, hidden)
        tokens = hidden.shape[1]
        heads = max(self.shape.kv_heads, self.shape.hidden_size // self.shape.head_dim)
        longest = max(1, min(MAX_TOKENS, MAX_SCORES // (heads * cache.max_length)))
        together = tokens == 1 or (cache.length == 0 and tokens * cache.batch <= longest)
        rows = [(0, cache.batch)] if together else [(row, row + 1) for row in range(cache.batch)]
        return [
            Piece(first_row, end_row, first, min(first + longest, tokens))
            for first_row, end_row in rows
            for first in range(0, tokens, longest)
        ]

    def check_run(self, cache: Cache[Storage], hidden: Floats) -> None:
        """Raises ``EngineError`` (a shape or dtype that does not fit) or ``CapacityError`` (no room)."""
        expected = f"float32 [{cache.batch}, n, {self.shape.hidden_size}]"
        fits = hidden.ndim == 3 and (hidden.shape[0], hidden.shape[2]) == (
            cache.batch,
            self.shape.hidden_size,
        )
        if not fits or hidden.dtype != "float32":
            raise EngineError(f"a run needs hidden states {expected}, got {hidden.dtype} {hidden.shape}")
        if cache.length + hidden.shape[1] > cache.max_length:
            raise CapacityError(
                f"the cache holds {cache.length} of {cache.max_length} positions; "
                f"{hidden.shape[1]} more do not fit"
            )

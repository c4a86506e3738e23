"""Loads a span into an engine, or a client's head: tensors from the blob store or by range from the source.

Rule of the file: bytes are believed only if they have the hash the manifest states; what was
fetched once is kept; one block at a time is packed, beside a few blocks' bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from ..errors import InputError, IntegrityError, KwaaiNetError, LocalError, RemoteError
from ..formats.config import EMBED, LM_HEAD, NORM
from ..formats.manifest import Assembly, ModelManifest, Read, TensorEntry, fetch_plan
from ..formats.weights import Weight, floats_of
from ..inference.head import LanguageHead
from ..inference.weight_format import choose
from ..inference.writer import SpanWriter
from ..ports import BlobStore, Engine, Floats, RangeSource, Report
from ..types import BlockRange, Progress
from .parts import Parts

T = TypeVar("T")
Borrow: TypeAlias = Callable[[int, TensorEntry], Awaitable[bytes]]  # see ``blobs.Borrower``

log = logging.getLogger(__name__)

WEIGHTS, BUILD = "weights", "build"  # stages of progress; the first counts bytes
BLOCKS_AHEAD = 2  # fetched or being fetched: the one packed next, and one more meanwhile
ATTEMPTS = 2  # a source gets one more chance to send the right bytes


@dataclass(slots=True)
class LoadStats:
    """Bytes of the span's tensors: ``fetched + cached == total`` once it is loaded."""

    total: int
    fetched: int = 0
    cached: int = 0

    def progress(self) -> Progress:
        """How far that is."""
        return Progress(WEIGHTS, self.fetched + self.cached, self.total, self.cached)


async def load_span(
    manifest: ModelManifest,
    blocks: BlockRange,
    source: RangeSource,
    store: BlobStore,
    engine: Engine,
    report: Report = lambda progress: None,
    *,
    parallel: int = 4,
    writer: SpanWriter | None = None,
    borrow: Borrow | None = None,
    granted: Callable[[], Awaitable[None]] | None = None,
) -> LoadStats:
    """Fill and build ``engine`` with ``blocks`` by ``writer``; cancelling it stops every fetch.

    ``granted`` is waited for before each block. Without a writer the weights are kept as is best on that
    engine. What the source fails to give is had by ``borrow``, which returns a tensor of a block, its hash
    checked. Raises ``IntegrityError`` if the source twice sends bytes of another hash, what the source
    raises, and ``EngineError``.
    """
    entries = manifest.span(blocks)
    writer = writer or choose(manifest.config, blocks, entries, engine).writer
    total = sum(entry.length for entry in entries.values())
    loader = _Loader(manifest, source, store, report, parallel, LoadStats(total), borrow)
    report(loader.stats.progress())  # how much there is, before any of it has come
    for name, table in writer.constants():
        await engine.add_tensor(name, table)
    ahead: deque[asyncio.Future[dict[str, bytes]]] = deque()
    try:
        for index in range(blocks.start, blocks.end):
            if granted is not None:
                await granted()
            while len(ahead) < BLOCKS_AHEAD and index + len(ahead) < blocks.end:
                ahead.append(asyncio.ensure_future(loader.block(index + len(ahead))))
            weights = loader.weights(index, await ahead[0])
            ahead.popleft()
            for name, packed in writer.pack_block(index, weights):
                await engine.add_tensor(name, packed)
    finally:
        await _stop(ahead)
    report(Progress(BUILD, 0, 1))
    await engine.build(writer.graph(), writer.shape)
    report(Progress(BUILD, 1, 1))
    return loader.stats


async def load_block(
    manifest: ModelManifest,
    index: int,
    source: RangeSource,
    store: BlobStore,
    borrow: Borrow | None = None,
) -> dict[str, Floats]:
    """One block's weights, float32, by Hugging Face suffix. Raises as ``load_span`` does."""
    entries = manifest.block(index)
    total = sum(entry.length for entry in entries.values())
    loader = _Loader(manifest, source, store, lambda progress: None, len(entries), LoadStats(total), borrow)
    return floats_of(loader.weights(index, await loader.block(index)), manifest.config)


async def load_head(
    manifest: ModelManifest,
    source: RangeSource,
    store: BlobStore,
    report: Report = lambda progress: None,
    *,
    parallel: int = 4,
) -> LanguageHead:
    """What a client computes itself: embedding, final norm and head (the embedding if tied).

    Raises ``IntegrityError`` if the source twice sends bytes of another hash, and what it raises.
    """
    config = manifest.config
    names = [EMBED, NORM] if config.tie_word_embeddings else [EMBED, NORM, LM_HEAD]
    entries = {name: manifest.tensors[name] for name in names}
    stats = LoadStats(sum(entry.length for entry in entries.values()))
    raw = await _Loader(manifest, source, store, report, parallel, stats).tensors(entries, "language head")
    found = {name: Weight.stored(entry, raw.pop(name)).floats(config) for name, entry in entries.items()}
    return LanguageHead.of(config, found)


class _Loader:
    """Gets tensors' bytes; at most ``parallel`` reads are under way at once."""

    def __init__(
        self,
        manifest: ModelManifest,
        source: RangeSource,
        store: BlobStore,
        report: Report,
        parallel: int,
        stats: LoadStats,
        borrow: Borrow | None = None,
    ) -> None:
        self._manifest, self._source, self._store, self._report = manifest, source, store, report
        self._turns = asyncio.Semaphore(parallel)
        self._borrow, self._borrowing = borrow, asyncio.Lock()
        self._source_failed = False
        self._parts = Parts(store)
        self.stats = stats

    async def block(self, index: int) -> dict[str, bytes]:
        """The bytes of one block's tensors by Hugging Face suffix."""
        return await self.tensors(self._manifest.block(index), f"block {index}", index)

    async def tensors(
        self, entries: Mapping[str, TensorEntry], what: str, block: int | None = None
    ) -> dict[str, bytes]:
        """The bytes of ``entries``, all of ``block``, by their names; an error calls them ``what``."""
        kept = await _together(self._kept(entry) for entry in entries.values())
        found = {name: data for name, data in zip(entries, kept, strict=True) if data is not None}
        missing = {name: entry for name, entry in entries.items() if name not in found}
        if block is None or self._borrow is None:
            await self._fetch(what, missing, found)
        elif missing:
            await self._fetch_or_borrow(self._borrow, block, missing, found)
        return found

    async def _fetch_or_borrow(
        self, borrow: Borrow, block: int, missing: Mapping[str, TensorEntry], found: dict[str, bytes]
    ) -> None:
        """Once the source has failed, others are asked first."""
        failure: KwaaiNetError | None = None
        if not self._source_failed:
            try:
                return await self._fetch(f"block {block}", missing, found)
            except (InputError, RemoteError) as error:
                failure, self._source_failed = error, True
                log.warning("block %d: %s; asking those who serve it", block, error)
        try:
            async with self._borrowing:
                for name, entry in missing.items():
                    if name not in found:
                        await self._keep(name, entry, await borrow(block, entry), found)
        except (RemoteError, LocalError) as error:
            if failure is None:
                return await self._fetch(f"block {block}", missing, found)
            raise type(failure)(f"{failure}; and {error}") from error

    async def _keep(self, name: str, entry: TensorEntry, data: bytes, found: dict[str, bytes]) -> None:
        found[name] = data
        self._parts.forget(entry)
        self.stats.fetched += len(data)
        self._report(self.stats.progress())
        await self._store.put(entry.sha256, data)

    async def _kept(self, entry: TensorEntry) -> bytes | None:
        data = await self._store.get(entry.sha256)
        if data is None or len(data) != entry.length:
            return None
        self.stats.cached += entry.length
        self._report(self.stats.progress())
        return data

    async def _fetch(self, what: str, missing: Mapping[str, TensorEntry], fetched: dict[str, bytes]) -> None:
        """Add ``missing`` to ``fetched``, as far as it is not there."""
        parts = await self._parts.of(missing)
        attempts = ATTEMPTS + bool(parts)  # a part that was wrong is not this source's fault
        for attempt in range(attempts):
            wanted = {suffix: entry for suffix, entry in missing.items() if suffix not in fetched}
            assembly = Assembly(wanted, parts)
            plan = fetch_plan(wanted, have={name: len(part) for name, part in parts.items()})
            reads = (self._read(read, assembly, wanted, fetched) for read in plan)
            refusals = [error for error in await _together(reads) if error is not None]
            if not refusals:
                break
            await self._parts.drop(entry for name, entry in wanted.items() if name not in fetched)
            parts = {}
            if attempt + 1 == attempts:
                raise IntegrityError(f"{what}: {refusals[0]}; the source sent it wrong twice, give another")
            log.warning("%s: %s; fetching it again", what, refusals[0])

    async def _read(
        self, read: Read, assembly: Assembly, wanted: Mapping[str, TensorEntry], fetched: dict[str, bytes]
    ) -> IntegrityError | None:
        """Fetch one range and keep the tensors it completes; the refusal of a wrong one."""
        async with self._turns:
            data = await self._source.read(read.file, read.offset, read.length)
        try:
            for suffix, complete in assembly.receive(read, data):
                await self._keep(suffix, wanted[suffix], complete, fetched)
        except IntegrityError as error:
            return error
        incomplete = set(assembly.missing())
        for piece in read.pieces:
            if piece.name in incomplete:
                part = data[piece.at : piece.at + piece.length]
                await self._parts.add(wanted[piece.name], piece.position, part)
        return None

    def weights(self, index: int, raw: Mapping[str, bytes]) -> dict[str, Weight]:
        """A block's weights, as the file holds them, by Hugging Face suffix."""
        entries = self._manifest.block(index)
        return {suffix: Weight.stored(entries[suffix], data) for suffix, data in raw.items()}


async def _together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all; the first failure, or being cancelled, stops the rest."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await _stop(tasks)


async def _stop(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel what still runs and wait for it; a failure beside the one being told is let go."""
    stopped = list(tasks)
    for task in stopped:
        task.cancel()
    await asyncio.gather(*stopped, return_exceptions=True)

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from kwaainet.errors import EngineError, IntegrityError, ModelFileError, Unreachable
from kwaainet.node import model
from kwaainet.node.model import BLOCKS_AHEAD, BUILD, WEIGHTS, load_head, load_span
from kwaainet.testing.clock import run
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.faults import FaultyEngine
from kwaainet.testing.model import FILE, TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange, Progress

MANIFEST, FILES = random_model()
BLOCKS = BlockRange(1, 4)
TOTAL = sum(entry.length for entry in MANIFEST.span(BLOCKS).values())
STATES = np.random.default_rng(3).standard_normal((1, 7, TINY.hidden_size), np.float32)


class SlowSource(MemorySource):
    """Counts how many reads are under way at once."""

    def __init__(self) -> None:
        super().__init__(FILES)
        self.under_way = self.most = 0

    async def read(self, file: str, offset: int, length: int) -> bytes:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(1)
            return await super().read(file, offset, length)
        finally:
            self.under_way -= 1


class LyingSource(MemorySource):
    """Flips a byte in each of the first ``lies`` answers."""

    def __init__(self, lies: int) -> None:
        super().__init__(FILES)
        self.lies = lies

    async def read(self, file: str, offset: int, length: int) -> bytes:
        data = await super().read(file, offset, length)
        if self.lies:
            self.lies -= 1
            return bytes([data[0] ^ 1]) + data[1:]
        return data


async def compute(engine: NumpyEngine) -> np.ndarray:
    cache = await engine.open_cache(1, STATES.shape[1])
    return await engine.run(cache, STATES)


def test_a_span_computes_what_its_blocks_compute_one_by_one() -> None:
    async def main() -> None:
        whole = NumpyEngine()
        await load_span(MANIFEST, BLOCKS, MemorySource(FILES), MemoryStore(), whole)
        states = STATES
        for block in range(BLOCKS.start, BLOCKS.end):
            one = NumpyEngine()
            await load_span(MANIFEST, BlockRange(block, block + 1), MemorySource(FILES), MemoryStore(), one)
            cache = await one.open_cache(1, STATES.shape[1])
            states = await one.run(cache, states)
        np.testing.assert_allclose(await compute(whole), states, atol=1e-5)

    run(main())


def test_only_the_spans_bytes_are_fetched_and_then_kept() -> None:
    async def main() -> None:
        store, source = MemoryStore(), MemorySource(FILES)
        stats = await load_span(MANIFEST, BLOCKS, source, store, NumpyEngine())
        assert (stats.total, stats.fetched, stats.cached) == (TOTAL, TOTAL, 0)
        assert sum(length for _, _, length in source.reads) == TOTAL
        source.reads.clear()
        stats = await load_span(MANIFEST, BLOCKS, source, store, NumpyEngine())
        assert (stats.fetched, stats.cached, source.reads) == (0, TOTAL, [])

    run(main())


def test_progress_is_honest() -> None:
    async def main() -> None:
        store, lines = MemoryStore(), list[Progress]()
        source = MemorySource(FILES)
        await load_span(MANIFEST, BlockRange(1, 2), source, store, NumpyEngine())
        await load_span(MANIFEST, BLOCKS, source, store, NumpyEngine(), lines.append)
        block = TOTAL // 3
        assert lines[-2:] == [Progress(BUILD, 0, 1), Progress(BUILD, 1, 1)]
        weights = lines[:-2]
        assert weights[-1] == Progress(WEIGHTS, TOTAL, TOTAL, block)
        assert {line.stage for line in weights} == {WEIGHTS}
        for done in ([line.done for line in weights], [line.done - line.cached for line in weights]):
            assert done == sorted(done)

    run(main())


def test_a_corrupt_entry_of_the_store_is_fetched_again() -> None:
    async def main() -> None:
        store, source = MemoryStore(), MemorySource(FILES)
        await load_span(MANIFEST, BLOCKS, source, store, NumpyEngine())
        entry = MANIFEST.block(2)["mlp.up_proj.weight"]
        store.blobs[entry.sha256] = b"\0" * entry.length
        engine = NumpyEngine()
        stats = await load_span(MANIFEST, BLOCKS, source, store, engine)
        assert (stats.fetched, stats.cached) == (entry.length, TOTAL - entry.length)
        assert np.isfinite(await compute(engine)).all()
        assert await store.get(entry.sha256) is not None

    run(main())


def test_wrong_bytes_get_one_more_chance() -> None:
    async def main() -> None:
        stats = await load_span(MANIFEST, BLOCKS, LyingSource(1), MemoryStore(), NumpyEngine())
        assert stats.fetched == TOTAL

    run(main())


def test_a_source_that_keeps_sending_wrong_bytes_is_refused() -> None:
    async def main() -> None:
        store = MemoryStore()
        with pytest.raises(IntegrityError, match=r"block 1: tensor .* sent it wrong twice"):
            await load_span(MANIFEST, BLOCKS, LyingSource(99), store, NumpyEngine())
        assert all([await store.get(digest) for digest in list(store.blobs)])

    run(main())


def test_a_full_store_does_not_stop_loading() -> None:
    async def main() -> None:
        stats = await load_span(MANIFEST, BLOCKS, MemorySource(FILES), MemoryStore(0), NumpyEngine())
        assert stats.fetched == TOTAL

    run(main())


def test_a_truncated_file_is_named() -> None:
    async def main() -> None:
        source = MemorySource({FILE: FILES[FILE][: len(FILES[FILE]) // 2]})
        with pytest.raises(ModelFileError, match="too short"):
            await load_span(MANIFEST, BLOCKS, source, MemoryStore(), NumpyEngine())

    run(main())


def test_a_source_that_is_gone_is_said_so() -> None:
    class Gone(MemorySource):
        async def read(self, file: str, offset: int, length: int) -> bytes:
            raise Unreachable("no network")

    async def main() -> None:
        with pytest.raises(Unreachable, match="no network"):
            await load_span(MANIFEST, BLOCKS, Gone(FILES), MemoryStore(), NumpyEngine())

    run(main())


def test_an_engine_that_cannot_build_is_said_so() -> None:
    async def main() -> None:
        engine = FaultyEngine()
        engine.build_failures.append(EngineError("no memory"))
        with pytest.raises(EngineError, match="no memory"):
            await load_span(MANIFEST, BLOCKS, MemorySource(FILES), MemoryStore(), engine)

    run(main())


def test_cancelling_stops_every_fetch() -> None:
    async def main() -> None:
        source = SlowSource()
        loading = asyncio.ensure_future(load_span(MANIFEST, BLOCKS, source, MemoryStore(), NumpyEngine()))
        await asyncio.sleep(0.5)
        assert source.under_way
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        assert source.under_way == 0

    run(main())


def test_reads_go_side_by_side_up_to_the_limit() -> None:
    async def main() -> None:
        for parallel, most in ((1, 1), (4, BLOCKS_AHEAD)):
            source = SlowSource()
            await load_span(MANIFEST, BLOCKS, source, MemoryStore(), NumpyEngine(), parallel=parallel)
            assert source.most == most

    run(main())


@pytest.mark.parametrize("tied", [False, True])
def test_a_clients_head_is_loaded_and_kept_as_blocks_are(tied: bool) -> None:
    manifest, files = random_model(replace(TINY, tie_word_embeddings=tied))
    names = ["model.embed_tokens.weight", "model.norm.weight", *([] if tied else ["lm_head.weight"])]
    total = sum(manifest.tensors[name].length for name in names)

    async def main() -> None:
        source, store = MemorySource(files), MemoryStore()
        told: list[Progress] = []
        head = await load_head(manifest, source, store, told.append)
        assert told[-1] == Progress(WEIGHTS, total, total)
        assert head.embedding.shape == head.lm_head.shape == (TINY.vocab_size, TINY.hidden_size)
        assert (head.lm_head is head.embedding) == tied
        norm = manifest.tensors["model.norm.weight"]
        raw = files[FILE][norm.offset : norm.offset + norm.length]
        np.testing.assert_array_equal(head.norm, np.frombuffer(raw, "<f4"))
        source.reads.clear()
        await load_head(manifest, source, store, told.append)
        assert (source.reads, told[-1]) == ([], Progress(WEIGHTS, total, total, total))

    run(main())


def test_a_head_that_lies_is_refused() -> None:
    with pytest.raises(IntegrityError, match="language head"):
        run(load_head(MANIFEST, LyingSource(99), MemoryStore()))


class BreakingSource(MemorySource):
    """Gives ``left`` reads, and then no more."""

    def __init__(self, left: int) -> None:
        super().__init__(FILES)
        self.left = left

    async def read(self, file: str, offset: int, length: int) -> bytes:
        if not self.left:
            raise Unreachable("the network went away")
        self.left -= 1
        return await super().read(file, offset, length)


def small_reads(patch: pytest.MonkeyPatch) -> None:
    """Reads of so few bytes that every matrix takes several."""
    patch.setattr("kwaainet.node.parts.MAX_READ", 500)
    plan = model.fetch_plan
    patch.setattr(model, "fetch_plan", lambda tensors, have: plan(tensors, have=have, max_read=500))


def test_an_interrupted_download_goes_on_inside_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    small_reads(monkeypatch)

    async def main() -> None:
        store, source = MemoryStore(), BreakingSource(left=3)
        with pytest.raises(Unreachable, match="went away"):
            await load_span(MANIFEST, BLOCKS, source, store, NumpyEngine(), parallel=1)
        came = sum(length for _, _, length in source.reads)
        assert any(store.parts.values())
        again = MemorySource(FILES)
        engine = NumpyEngine()
        await load_span(MANIFEST, BLOCKS, again, store, engine)
        assert sum(length for _, _, length in again.reads) == TOTAL - came
        assert np.isfinite(await compute(engine)).all()
        assert not any(store.parts.values())

    run(main())


def test_a_wrong_part_is_dropped_and_the_tensor_fetched_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    small_reads(monkeypatch)

    async def main() -> None:
        store = MemoryStore()
        entry = MANIFEST.block(1)["mlp.up_proj.weight"]
        await store.put_part(entry.sha256, 0, b"\xff" * 600)
        await load_span(MANIFEST, BLOCKS, LyingSource(1), store, NumpyEngine())
        assert await store.get(entry.sha256) is not None
        assert not any(store.parts.values())

    run(main())

import numpy as np
import pytest

from kwaainet.errors import DeviceLost, EngineError
from kwaainet.inference.writer import span_shape
from kwaainet.node.model import load_span
from kwaainet.testing.clock import now, run
from kwaainet.testing.faults import FaultyEngine
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange

ONE = np.ones((1, 1, TINY.hidden_size), np.float32)


async def built() -> FaultyEngine:
    manifest, files = random_model()
    engine = FaultyEngine()
    await load_span(manifest, BlockRange(0, 1), MemorySource(files), MemoryStore(), engine)
    return engine


def test_a_run_takes_its_time_and_fails_as_told_once() -> None:
    async def main() -> None:
        engine = await built()
        engine.seconds_per_run = 2.0
        cache = await engine.open_cache(1, 4)
        engine.failures.append(EngineError("told"))
        started = now()
        with pytest.raises(EngineError, match="told"):
            await engine.run(cache, ONE)
        await engine.run(cache, ONE)
        assert now() - started == 4.0
        assert engine.open_caches == {cache}
        await engine.close_cache(cache)
        assert engine.open_caches == set()

    run(main())


def test_a_lost_device_takes_everything_with_it() -> None:
    async def main() -> None:
        engine = await built()
        cache = await engine.open_cache(1, 4)
        engine.failures.append(DeviceLost("told"))
        with pytest.raises(DeviceLost):
            await engine.run(cache, ONE)
        with pytest.raises(EngineError, match="build"):
            await engine.run(cache, ONE)

    run(main())


def test_a_build_fails_as_told() -> None:
    async def main() -> None:
        engine = FaultyEngine()
        engine.build_failures.append(EngineError("told"))
        with pytest.raises(EngineError, match="told"):
            await engine.build(b"", span_shape(TINY, BlockRange(0, 1)))
        assert engine.builds == 0

    run(main())

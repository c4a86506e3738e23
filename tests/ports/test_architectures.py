"""Every architecture on onnxruntime: prefill, chunks and steps beyond the window, and skipped blocks."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from kwaainet.native.engine import NativeEngine
from kwaainet.testing.architectures import Case
from kwaainet.types import BlockRange

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "architectures.json").read_text())["cases"]


@pytest.mark.parametrize("name", CASES)
def test_onnxruntime_computes_what_hugging_face_computes(name: str) -> None:
    async def run() -> None:
        case, engine = Case.read(CASES[name]), NativeEngine(threads=1)
        await case.fill(engine)
        whole, steps, none = [await engine.open_cache(1, 32) for _ in range(3)]
        at_once = await engine.run(whole, case.hidden)
        parts = [await engine.run(steps, part) for part in np.split(case.hidden, [6, 11, 12, 13], axis=1)]
        await engine.close_cache(none)
        some = await engine.open_cache(1, 32, BlockRange(0, 1))
        through_one = await engine.run(some, case.hidden)
        await engine.close()
        for found in (at_once, np.concatenate(parts, axis=1)):
            np.testing.assert_allclose(found, case.expected, rtol=0, atol=5e-5)
        await case.fill(engine, BlockRange(0, 1))
        alone = await engine.run(await engine.open_cache(1, 32), case.hidden)
        await engine.close()
        np.testing.assert_array_equal(through_one, alone)

    asyncio.run(run())

"""Blocks of each architecture as Hugging Face computes them, on the engine in numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kwaainet.inference.head import LanguageHead
from kwaainet.testing import clock
from kwaainet.testing.architectures import Case
from kwaainet.testing.engine import NumpyEngine
from kwaainet.types import BlockRange

CASES = json.loads((Path(__file__).parents[2] / "vectors" / "architectures.json").read_text())["cases"]


@pytest.mark.parametrize("name", CASES)
def test_the_files_tensors_are_those_the_config_asks_for(name: str) -> None:
    case = Case.read(CASES[name])
    assert {name: array.shape for name, array in case.tensors.items()} == case.config.tensor_shapes()


@pytest.mark.parametrize("name", CASES)
def test_blocks_compute_what_hugging_face_computes(name: str) -> None:
    async def run() -> None:
        case, engine = Case.read(CASES[name]), NumpyEngine()
        await case.fill(engine)
        cache = await engine.open_cache(1, 32)
        parts = [await engine.run(cache, part) for part in np.split(case.hidden, [6, 12, 13], axis=1)]
        np.testing.assert_allclose(np.concatenate(parts, axis=1), case.expected, rtol=0, atol=5e-5)

    clock.run(run())


@pytest.mark.parametrize("name", CASES)
def test_a_client_computes_the_rest(name: str) -> None:
    case = Case.read(CASES[name])
    head = LanguageHead.of(case.config, case.tensors)
    np.testing.assert_allclose(head.embed(case.tokens), case.hidden, rtol=0, atol=2e-6)
    np.testing.assert_allclose(head.logits(case.expected[0, -1]), case.logits, rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", CASES)
def test_skipped_blocks_change_nothing_at_all(name: str) -> None:
    async def run() -> None:
        case, whole, part = Case.read(CASES[name]), NumpyEngine(), NumpyEngine()
        await case.fill(whole)
        await case.fill(part, BlockRange(1, 2))
        results = []
        for engine, blocks in ((whole, BlockRange(1, 2)), (part, None)):
            cache = await engine.open_cache(1, 32, blocks)
            results.append([await engine.run(cache, x) for x in np.split(case.hidden, [9, 13], axis=1)])
        for found, expected in zip(*results, strict=True):
            np.testing.assert_array_equal(found, expected)

    clock.run(run())

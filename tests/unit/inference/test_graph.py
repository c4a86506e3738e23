"""Span graphs and their tensors: golden bytes, packing, and a block as Hugging Face computes it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kwaainet.errors import ModelFileError
from kwaainet.formats.config import ModelConfig
from kwaainet.formats.weights import weights_of
from kwaainet.inference.graph import OnnxWriter
from kwaainet.ports import Floats
from kwaainet.testing import clock
from kwaainet.testing.engine import NumpyEngine, read_graph
from kwaainet.testing.engine_compliance import CONFIG, random_weights
from kwaainet.types import BlockRange

VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "llama_block.json").read_text())
GOLDEN = ModelConfig(**VECTOR["config"])
WRITER = OnnxWriter(GOLDEN, BlockRange(0, 1))


def _wave(shape: tuple[int, ...], seed: int) -> Any:
    return np.sin(np.arange(np.prod(shape)) * 1.3 + seed).reshape(shape).astype(np.float32)


def _golden_weights() -> dict[str, Floats]:
    return {
        suffix: 1 + _wave(shape, seed) / 4 if len(shape) == 1 else _wave(shape, seed) / 6
        for seed, (suffix, shape) in enumerate(GOLDEN.block_shapes().items())
    }


def _golden(text: str, *shape: int) -> Floats:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(shape)


def test_the_graph_is_the_golden_one() -> None:
    assert WRITER.graph() == base64.b64decode(VECTOR["graph"])


def test_tensors_are_the_golden_ones() -> None:
    found = dict(WRITER.constants()) | dict(WRITER.pack_block(0, weights_of(_golden_weights())))
    shapes = {name: shape for name, _, shape in WRITER.tensor_shapes()}
    assert list(found) == list(shapes) == list(VECTOR["tensors"])
    for name, text in VECTOR["tensors"].items():
        np.testing.assert_allclose(found[name], _golden(text, *shapes[name]), rtol=0, atol=1e-6)


def test_a_block_computes_what_hugging_face_computes() -> None:
    async def compute() -> Floats:
        engine = NumpyEngine()
        for name, tensor in [*WRITER.constants(), *WRITER.pack_block(0, weights_of(_golden_weights()))]:
            await engine.add_tensor(name, tensor)
        await engine.build(WRITER.graph(), WRITER.shape)
        cache = await engine.open_cache(1, 16)
        return await engine.run(cache, _golden(VECTOR["hidden"], 1, VECTOR["tokens"], GOLDEN.hidden_size))

    expected = _golden(VECTOR["expected"], 1, VECTOR["tokens"], GOLDEN.hidden_size)
    np.testing.assert_allclose(clock.run(compute()), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_the_graph_asks_for_every_tensor_and_holds_none(blocks: int) -> None:
    writer = OnnxWriter(CONFIG, BlockRange(0, blocks))
    graph = writer.graph()
    nodes, shapes = read_graph(graph)
    norms = {name for index in range(blocks) for name in writer.shape.switches_of(index)}
    wanted = {name: shape for name, _, shape in writer.tensor_shapes()}
    assert norms < wanted.keys()
    assert shapes == {name: shape for name, shape in wanted.items() if name not in norms}
    assert len(graph) < 2000 * (blocks + 1), "weights have got into the graph"
    assert [node.operator for node in nodes].count("GroupQueryAttention") == blocks
    made = {name for node in nodes for name in node.outputs if name}
    given = {"x", "seqlens_k", "total_seq"} | wanted.keys()
    given |= {f"past_{letter}.{index}" for letter in "kv" for index in range(blocks)}
    assert {name for node in nodes for name in node.inputs if name} <= made | given
    assert {"y"} | {f"present_{letter}.{index}" for letter in "kv" for index in range(blocks)} <= made


def test_packed_weights_lie_as_a_product_reads_them() -> None:
    weights = random_weights(CONFIG, 0)
    packed = dict(OnnxWriter(CONFIG, BlockRange(0, 9)).pack_block(3, weights_of(weights)))
    x = np.random.default_rng(1).standard_normal((5, CONFIG.hidden_size), np.float32)
    side_by_side = [x @ weights[f"self_attn.{letter}_proj.weight"].T for letter in "qkv"]
    np.testing.assert_allclose(x @ packed["3.qkv"], np.concatenate(side_by_side, axis=1), atol=1e-5)
    gate_up = [x @ weights[f"mlp.{name}_proj.weight"].T for name in ("gate", "up")]
    np.testing.assert_allclose(x @ packed["3.gate_up"], np.concatenate(gate_up, axis=1), atol=1e-5)
    for name, tensor in packed.items():
        assert (name, tensor.dtype, tensor.flags.c_contiguous) == (name, np.float32, True)


def test_a_missing_weight_is_named() -> None:
    weights = random_weights(CONFIG, 0)
    del weights["mlp.up_proj.weight"]
    with pytest.raises(ModelFileError, match=r"block 4: mlp\.up_proj\.weight has shape None"):
        list(OnnxWriter(CONFIG, BlockRange(2, 9)).pack_block(4, weights_of(weights)))


def test_a_misshapen_weight_is_named_before_anything_is_packed() -> None:
    weights = random_weights(CONFIG, 0)
    weights["mlp.down_proj.weight"] = weights["mlp.down_proj.weight"].T
    with pytest.raises(ModelFileError, match=r"mlp\.down_proj\.weight has shape \(500, 200\)"):
        next(OnnxWriter(CONFIG, BlockRange(0, 1)).pack_block(0, weights_of(weights)))

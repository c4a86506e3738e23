"""Programs for the kernels: complete, as the config says, and weights as the file has them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kwaainet.errors import ModelFileError
from kwaainet.formats.config import FULL, SLIDING, ModelConfig
from kwaainet.formats.weights import Weight, weights_of
from kwaainet.inference.program import ProgramWriter
from kwaainet.testing.span import CONFIG, random_weights
from kwaainet.types import BlockRange

GEMMA = replace(
    CONFIG,
    hidden_act="gelu_pytorch_tanh",
    post_norms=True,
    norm_offset=1.0,
    attn_logit_softcapping=50.0,
    query_pre_attn_scalar=64.0,
    sliding_window=7,
    layer_types=(SLIDING, FULL, SLIDING),
)
CONFIGS = {
    "llama": CONFIG,
    "qwen": replace(CONFIG, qkv_bias=True, qk_norm=True),
    "phi": replace(CONFIG, packed_projections=True, partial_rotary_factor=0.5),
    "gemma": GEMMA,
    "mixtral": replace(CONFIG, num_local_experts=4, num_experts_per_tok=2),
}


def written(config: ModelConfig, blocks: BlockRange) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(the program of ``blocks``, its tensors by name)."""
    writer = ProgramWriter(config, blocks)
    tensors = dict(writer.constants())
    for index in range(blocks.start, blocks.end):
        tensors.update(writer.pack_block(index, weights_of(random_weights(config, index))))
    return json.loads(writer.graph()), tensors


@pytest.mark.parametrize("name", CONFIGS)
def test_a_program_names_what_there_is_and_all_of_it(name: str) -> None:
    program, tensors = written(CONFIGS[name], BlockRange(1, 3))
    assert program["tensors"].keys() == tensors.keys()
    used: set[str] = set()
    for step in (step for block in program["blocks"] for step in block):
        for key, value in step.items():
            if key in ("weight", "bias", "cos", "sin"):
                used.add(value)
            elif key == "experts":
                used.update(one for expert in value for one in expert)
            elif key not in ("op", "activation") and isinstance(value, str):
                assert value == "x" or value in program["buffers"]
    assert used == tensors.keys()
    for tensor, (kind, rows, columns) in program["tensors"].items():
        assert kind == "F32"
        assert tensors[tensor].nbytes == 4 * rows * columns


def steps_of(name: str, block: int, op: str) -> list[dict[str, Any]]:
    program, _ = written(CONFIGS[name], BlockRange(0, 3))
    return [step for step in program["blocks"][block] if step["op"] == op]


@pytest.mark.parametrize(
    ("name", "ops"),
    [
        ("llama", {"rms_norm": 2, "matmul": 7, "rope": 2, "attention": 1, "gated": 1}),
        ("qwen", {"rms_norm": 4, "matmul": 7, "bias": 3, "rope": 2, "attention": 1, "gated": 1}),
        ("phi", {"rms_norm": 2, "matmul": 7, "rope": 2, "attention": 1, "gated": 1}),
        ("gemma", {"rms_norm": 4, "matmul": 7, "rope": 2, "attention": 1, "gated": 1, "add": 2}),
        ("mixtral", {"rms_norm": 2, "matmul": 5, "rope": 2, "attention": 1, "experts": 1}),
    ],
)
def test_a_block_has_the_steps_of_its_architecture(name: str, ops: dict[str, int]) -> None:
    program, _ = written(CONFIGS[name], BlockRange(0, 1))
    found = [step["op"] for step in program["blocks"][0]]
    assert {op: found.count(op) for op in found} == ops


def test_blocks_may_differ_within_a_span() -> None:
    assert [steps_of("gemma", block, "attention")[0]["window"] for block in range(3)] == [7, 0, 7]
    attention = steps_of("gemma", 0, "attention")[0]
    assert (attention["scale"], attention["softcap"]) == (0.125, 50.0)
    assert steps_of("llama", 0, "attention")[0]["window"] == 0


def test_norms_have_their_offset_and_nothing_else_has() -> None:
    weights = random_weights(GEMMA, 0)
    _, tensors = written(GEMMA, BlockRange(0, 1))
    norm = "post_feedforward_layernorm.weight"
    np.testing.assert_array_equal(tensors[f"0.{norm}"], weights[norm] + np.float32(1))
    np.testing.assert_array_equal(
        tensors["0.mlp.up_proj.weight"], weights["mlp.up_proj.weight"].view(np.uint8)
    )


def test_projections_in_one_weight_come_apart() -> None:
    packed = random_weights(CONFIGS["phi"], 0)
    program, tensors = written(CONFIGS["phi"], BlockRange(0, 1))
    rows = packed["self_attn.qkv_proj.weight"]
    np.testing.assert_array_equal(tensors["0.self_attn.k_proj.weight"].view(np.float32), rows[192:256])
    assert program["tensors"]["0.self_attn.v_proj.weight"] == ["F32", 64, 200]
    np.testing.assert_array_equal(
        tensors["0.mlp.up_proj.weight"].view(np.float32), packed["mlp.gate_up_proj.weight"][500:]
    )


def test_quantized_rows_stay_as_the_file_has_them() -> None:
    """Those of queries in Hugging Face's order; rows that the kernels cannot read become float32."""
    weights = weights_of(random_weights(CONFIG, 0))
    raw = np.random.default_rng(2).integers(0, 256, (200, 192 // 32, 18), dtype=np.uint8)
    weights["self_attn.o_proj.weight"] = Weight("Q4_0", (200, 192), raw.tobytes())
    halves = np.arange(192 * 200, dtype=np.float16)
    weights["self_attn.q_proj.weight"] = Weight("F16", (192, 200), halves.tobytes(), permuted=True)
    writer = ProgramWriter(CONFIG, BlockRange(0, 1))
    tensors = dict(writer.pack_block(0, weights))
    assert tensors["0.self_attn.o_proj.weight"].tobytes() == raw.tobytes()
    rows = np.frombuffer(tensors["0.self_attn.q_proj.weight"].tobytes(), np.float16).reshape(192, 200)
    np.testing.assert_array_equal(rows[1], halves[2 * 200 : 3 * 200])
    shapes = {name: (kind, shape) for name, kind, shape in writer.tensor_shapes()}
    assert shapes["0.self_attn.o_proj.weight"] == ("Q4_0", (200, 192))
    assert shapes["0.input_layernorm.weight"] == ("F32", (1, 200))


def test_a_block_without_all_its_weights_is_refused() -> None:
    weights = weights_of(random_weights(CONFIG, 0))
    del weights["mlp.down_proj.weight"]
    with pytest.raises(ModelFileError, match="down_proj"):
        list(ProgramWriter(CONFIG, BlockRange(0, 1)).pack_block(0, weights))

"""The choice of a weight format: what fits, what the engine is good at, and what was asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from kwaainet.errors import ConfigError
from kwaainet.formats.config import block_name
from kwaainet.formats.manifest import TensorEntry
from kwaainet.formats.quants import byte_length
from kwaainet.inference.matrices import Form
from kwaainet.inference.weight_format import WeightFormat, choose, forms_of
from kwaainet.testing.span import QUANTIZED
from kwaainet.types import BlockRange

CONFIG = replace(QUANTIZED, num_hidden_layers=3)
BLOCKS = BlockRange(1, 3)


@dataclass(frozen=True)
class Able:
    backend: str
    half: bool = False

    @property
    def graphs(self) -> str:
        return "program" if self.backend == "wasm" else "onnx"


def entries(dtype: str, **others: str) -> dict[str, TensorEntry]:
    """The span's tensors of one type, but for the norms and ``others`` (``q_proj="F16"``)."""
    result = {}
    for index in range(BLOCKS.start, BLOCKS.end):
        for suffix, shape in CONFIG.block_shapes().items():
            kind = "F32" if len(shape) == 1 else others.get(suffix.split(".")[1], dtype)
            size = shape[0] * (shape[1] if len(shape) == 2 else 1)
            entry = TensorEntry("f", 0, byte_length(kind, size), "", kind, shape)
            result[block_name(index, suffix)] = entry
    return result


def chosen(engine: Able, files: dict[str, TensorEntry], *options: Any) -> WeightFormat:
    return choose(CONFIG, BLOCKS, files, cast(Any, engine), *options)


@pytest.mark.parametrize(
    ("backend", "dtype", "name"),
    [
        ("cpu", "Q4_0", "float32"),
        ("cpu", "Q8_0", "float32"),
        ("wasm", "Q4_0", "stored"),
        ("webgpu", "Q4_0", "q4"),
        ("webgpu", "Q4_1", "q4"),
        ("webgpu", "Q8_0", "q8"),
        ("webgpu", "F16", "float32"),
    ],
)
def test_unless_asked_the_best_that_is_exact(backend: str, dtype: str, name: str) -> None:
    found = chosen(Able(backend, half=True), entries(dtype))
    assert (found.name, found.exact, found.why) == (name, True, f"the best on {backend}")


@pytest.mark.parametrize(
    ("engine", "dtype", "name", "exact"),
    [
        (Able("cpu"), "Q4_0", "q4", True),
        (Able("cpu"), "Q8_0", "float32", True),  # nothing takes less there
        (Able("webgpu"), "F16", "q8", False),
        (Able("webgpu", half=True), "F16", "q8", False),
    ],
)
def test_within_a_budget(engine: Able, dtype: str, name: str, exact: bool) -> None:
    found = chosen(engine, entries(dtype), "auto", 1_000_000)
    assert (found.name, found.exact) == (name, exact)
    assert found.why.startswith("as float32 would take 2 MB of 1")
    assert (found.size <= 1_000_000) == (name != "float32")


def test_what_is_asked_for_is_done_and_said() -> None:
    found = chosen(Able("webgpu"), entries("Q4_0"), "q8")
    assert (found.name, found.exact, found.why) == ("q8", False, "as asked for")
    assert "q8 (" in str(found)
    assert "rounded" in str(found)
    assert (found.quant_type, found.torch_dtype) == ("int8", "float32")
    half = chosen(Able("webgpu", half=True), entries("Q4_0"), "float16")
    assert (half.quant_type, half.torch_dtype, half.writer.shape.half) == ("none", "float16", True)
    assert chosen(Able("cpu"), entries("Q4_0"), "q4").quant_type == "nf4"


@pytest.mark.parametrize(
    ("dtype", "quant_type"),
    [("F32", "none"), ("F16", "none"), ("Q8_0", "int8"), ("Q5_0", "nf4"), ("Q4_0", "nf4")],
)
def test_petals_is_told_the_nearest_of_its_names_for_what_the_kernels_keep(
    dtype: str, quant_type: str
) -> None:
    assert chosen(Able("wasm"), entries(dtype)).quant_type == quant_type


@pytest.mark.parametrize(
    ("wanted", "dtype", "reason"),
    [
        ("q4", "Q8_0", "no blocks of 4 bits"),
        ("q4", "F16", "no blocks of 4 bits"),
        ("float16", "F16", "computes no half precision"),
        ("stored", "F16", "only the wasm backend"),
        ("int3", "F16", "there are auto, float32, float16, q4, q8, stored, exact"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(wanted: str, dtype: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        chosen(Able("cpu"), entries(dtype), wanted)


def test_our_kernels_take_what_the_file_has_and_nothing_else() -> None:
    files = entries("Q4_0", o_proj="Q2_K", down_proj="F16")
    found = chosen(Able("wasm"), files, "auto", 1)
    tables = 4 * CONFIG.max_position_embeddings * CONFIG.head_dim
    widened = sum(4 * 192 * 192 - entry.length for entry in files.values() if entry.dtype == "Q2_K")
    assert found.size == sum(entry.length for entry in files.values()) + tables + widened
    assert found.exact
    assert "the file's numbers; prompts of 64 tokens and more in 16 bits)" in str(found)
    with pytest.raises(ConfigError, match="as the file has them"):
        chosen(Able("wasm"), entries("Q4_0"), "float32")


def test_long_prompts_are_as_fine_as_steps_where_that_is_asked_for() -> None:
    fast, fine = (chosen(Able("wasm"), entries("Q4_0"), name) for name in ("stored", "exact"))
    assert (fine.size, fine.exact, fine.but) == (fast.size, True, "")
    assert json.loads(fast.writer.graph())["coarse_from"] == 64
    assert "coarse_from" not in json.loads(fine.writer.graph())


def test_each_matrix_has_its_own_form() -> None:
    files = entries("Q4_0", q_proj="Q4_1", o_proj="Q8_0", down_proj="Q6_K", up_proj="F16")
    expected = {"qkv": Form.Q4_WITH_ZEROS, "o": Form.Q8}
    forms = {f"{at}.{name}": form for at in (0, 1) for name, form in expected.items()}
    assert forms_of("q4", CONFIG, BLOCKS, files) == forms
    everywhere = {f"{at}.{name}": Form.Q8 for at in (0, 1) for name in ("qkv", "o", "gate_up", "down")}
    assert forms_of("q8", CONFIG, BLOCKS, files) == everywhere
    assert forms_of("float32", CONFIG, BLOCKS, files) == {}

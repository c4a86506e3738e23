"""The wasm engine's kernels in Node: blocks as large as TinyLlama's and SmolLM2's, beside PyTorch and memory.

Rule of the file: processor time of one thread, so that other jobs on the machine add little; a plain read
of the same bytes by the same module in the same process is the roofline that each figure stands beside.
"""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from interop.running import ROOT

from kwaainet.formats.config import ModelConfig
from kwaainet.formats.quantize import quantize
from kwaainet.formats.weights import Weight
from kwaainet.inference.program import ProgramWriter
from kwaainet.inference.writer import Tensor
from kwaainet.types import BlockRange, SpanShape

from .report import Result, Row

HERE = Path(__file__).parent
PEER = ROOT / ".cache" / "peers" / "bin" / "python"


def config(blocks: int, hidden: int, inner: int, heads: int, kv_heads: int) -> ModelConfig:
    """Blocks of a Llama with heads of 64."""
    return ModelConfig(blocks, hidden, inner, heads, kv_heads, 64, 8, 4352, 1e-5, 10000.0, True)


# name, its blocks, the formats of its matrices
TINY = ("TinyLlama's block", (2048, 5632, 32, 4), {"F32": 3, "Q4_0": 6})
SMOL = ("SmolLM2-135M's block", (576, 1536, 9, 3), {"F32": 30, "Q4_0": 30})


def write_span(path: Path, sizes: tuple[int, int, int, int], dtype: str, blocks: int) -> int:
    """A span of random weights, as ``kernel_runs.mjs`` reads it; every block has the same numbers.

    Returns the bytes that its weights would take in a file.
    """
    model = config(blocks, *sizes)
    random = np.random.default_rng(1)
    weights = {}
    for name, shape in model.block_shapes().items():
        numbers = random.standard_normal(shape, np.float32) / np.float32(shape[-1] ** 0.5)
        matrix = dtype != "F32" and len(shape) == 2
        weights[name] = Weight(dtype, shape, quantize(dtype, numbers)) if matrix else Weight.of(numbers)
    writer = ProgramWriter(model, BlockRange(0, blocks))
    tensors = list(writer.constants())
    for index in range(blocks):
        tensors += writer.pack_block(index, weights)
    write_tensors(path, writer.graph(), writer.shape, tensors)
    return blocks * sum(len(weight.data) for weight in weights.values())


def write_tensors(path: Path, graph: bytes, shape: SpanShape, tensors: Sequence[Tensor]) -> None:
    """A program and its tensors, as ``kernel_runs.mjs`` reads them."""
    known = {
        "blocks": shape.blocks,
        "hiddenSize": shape.hidden_size,
        "kvHeads": shape.kv_heads,
        "headDim": shape.head_dim,
    }
    entries = [[name, array.nbytes] for name, array in tensors]
    head = json.dumps({"graph": graph.decode(), "shape": known, "sizes": entries}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<I", len(head)) + head)
        for _, array in tensors:
            file.write(np.ascontiguousarray(array).data)


def measure(folder: Path, rounds: int) -> Result:
    """Rows for each size and format; PyTorch where its environment is set up."""
    rows: list[Row] = []
    figures: dict[str, Any] = {}
    for name, sizes, formats in (TINY, SMOL):
        torch = _torch(rounds, sizes) if PEER.exists() else {}
        figures[f"{name}, PyTorch"] = torch
        for dtype, blocks in formats.items():
            path = folder / "span"
            stored = write_span(path, sizes, dtype, blocks)
            found = _run([ROOT / ".venv/bin/node", HERE / "kernel_runs.mjs", rounds, path])
            figures[f"{name}, {dtype}"] = found
            rows += _rows(f"{name}, {dtype}, wasm, 1 thread", found, torch)
            if dtype == "Q4_0":
                rows += _threads(name, path, rounds, sizes, figures)
            held = f"{found['resident'] / stored:.2f} times the file's bytes"
            rows.append(Row("· in memory, rotary tables included", held, goal="≤ 1.2"))
    return Result(rows, figures)


def _rows(what: str, found: Mapping[str, float], torch: Mapping[str, float]) -> list[Row]:
    rows = []
    for key, label, goal in (("decode", "decode", "≥ 2"), ("prefill", "prefill of 128", "≥ 1")):
        theirs = f"{torch[key]:.2f} ms (PyTorch float32)" if torch else ""
        ratio = torch[key] / found[key] if torch else None
        rows.append(Row(f"{what}: {label}", f"{found[key]:.2f} ms", theirs, ratio, goal))
    read = found["read"]
    rows.append(
        Row(
            "· the same decode, and a plain read of its weights",
            f"{found['decode']:.2f} ms",
            f"{read:.2f} ms",
            read / found["decode"],
        )
    )
    longer = f"{found['long']:.2f} ms"
    rows.append(
        Row(
            "· decode at position 4096, and at 128",
            longer,
            f"{found['decode']:.2f} ms",
            found["decode"] / found["long"],
        )
    )
    gain = 16 * found["decode"] / found["sixteen"]
    rows.append(Row("· 16 rows at once, tokens per second over one's", f"{gain:.1f} times", goal="≥ 5"))
    return rows


def _threads(
    what: str, path: Path, rounds: int, sizes: tuple[int, int, int, int], figures: dict[str, Any]
) -> list[Row]:
    """Two threads beside PyTorch's two, and beside one; all by the clock, so of a quiet machine only."""
    found = _run([ROOT / ".venv/bin/node", HERE / "kernel_threads.mjs", rounds, 2, path])
    torch = _torch(rounds, sizes, 2) if PEER.exists() else {}
    figures[f"{what}, 2 threads by the clock"] = {"ours": found, "PyTorch": torch}
    one, two = found["1"], found["2"]
    rows = []
    for key, label, goal in (("decode", "decode", "≥ 2"), ("prefill", "prefill of 128", "≥ 1")):
        theirs = f"{torch[key]:.2f} ms (PyTorch float32)" if torch else ""
        ratio = torch[key] / two[key] if torch else None
        rows.append(Row(f"{what}, Q4_0, wasm, 2 threads: {label}", f"{two[key]:.2f} ms", theirs, ratio, goal))
        gain = one[key] / two[key]
        rows.append(
            Row(f"· the same {label} on one thread", f"{two[key]:.2f} ms", f"{one[key]:.2f} ms", gain)
        )
    return rows


def _torch(rounds: int, sizes: tuple[int, int, int, int], threads: int = 1) -> dict[str, float]:
    return _run([PEER, HERE / "torch_block.py", rounds, *sizes, threads])


def _run(command: list[Any]) -> dict[str, Any]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))

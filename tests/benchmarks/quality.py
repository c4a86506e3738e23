"""What each weight format costs in quality: logits of SmolLM2-135M on the text beside this file.

The reference is the file's numbers in float32. For each format the divergence KL(reference || format) of the
next token's distribution, the perplexity, and how often both find the same token best, over all
positions. Rule of the file: one run for all positions, of our kernels also one for each; nothing is timed.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from interop.running import ROOT
from numpy.typing import NDArray

from kwaainet.errors import EngineError
from kwaainet.inference.graph import OnnxWriter
from kwaainet.inference.head import LanguageHead
from kwaainet.inference.program import ProgramWriter
from kwaainet.inference.weight_format import FLOAT32, Q4, Q8, forms_of
from kwaainet.inference.writer import SpanWriter, Tensor
from kwaainet.native.engine import NativeEngine
from kwaainet.native.model import Model, open_model
from kwaainet.native.store import NoStore
from kwaainet.node.model import load_span
from kwaainet.ports import Floats
from kwaainet.types import BlockRange, SpanShape

from .kernel import HERE, write_tensors
from .model import GGUF
from .report import Result, Row

TEXT = HERE / "quality.txt"
NODE = ROOT / ".venv" / "bin" / "node"
REFERENCE = "float32"
ROUNDED_ACTIVATIONS = 4  # MatMulNBits' accuracy_level that rounds activations to 8 bits


def measure(folder: Path, rounds: int) -> Result:
    """Needs the default model; one round is as good as many."""
    model = open_model(GGUF)
    tokens = model.tokenizer.encode(TEXT.read_text())
    head = model.load_head()
    embedded, wanted = head.embed(tokens), np.array(tokens[1:])
    figures: dict[str, dict[str, float]] = {}
    rows: list[Row] = []
    reference: Floats | None = None
    for name, writer in _writers(model):
        try:
            hidden = asyncio.run(_run(model, writer, embedded))
        except EngineError as error:  # its self-test says that steps and prompts differ too much
            rows.append(Row(name, "refused", str(error).partition(";")[0]))
            continue
        found = _log_probabilities(head, hidden[0, :-1])
        reference = found if reference is None else reference
        figures[name] = _compare(reference, found, wanted)
        rows.append(_row(name, figures[name]))
    assert reference is not None
    for name, own in asyncio.run(_run_in_wasm(model, embedded, folder)).items():
        figures[name] = _compare(reference, _log_probabilities(head, own[:-1]), wanted)
        rows.append(_row(name, figures[name]))
    return Result(rows, {"tokens": len(tokens), **figures})


def _writers(model: Model) -> Iterator[tuple[str, SpanWriter]]:
    config = model.config
    blocks = BlockRange(0, config.num_hidden_layers)
    entries = model.manifest.span(blocks)
    forms = {name: forms_of(name, config, blocks, entries) for name in (FLOAT32, Q4, Q8)}
    yield REFERENCE, OnnxWriter(config, blocks)
    yield "q4, the file's own blocks", OnnxWriter(config, blocks, forms[Q4])
    yield "q8, rounded from the file's 4 bits", OnnxWriter(config, blocks, forms[Q8])
    yield "float16", OnnxWriter(config, blocks, real="float16")
    yield "q4, float16 arithmetic", OnnxWriter(config, blocks, forms[Q4], real="float16")
    for name in (Q4, Q8):
        writer = OnnxWriter(config, blocks, forms[name], accuracy_level=ROUNDED_ACTIVATIONS)
        yield f"{name}, activations rounded to 8 bits", writer


async def _run(model: Model, writer: SpanWriter, embedded: Floats) -> Floats:
    """embedded [1, n, hidden] through all blocks."""
    engine = NativeEngine()
    try:
        blocks = BlockRange(0, model.config.num_hidden_layers)
        await load_span(model.manifest, blocks, model.source, NoStore(), engine, writer=writer)
        cache = await engine.open_cache(1, embedded.shape[1])
        return await engine.run(cache, embedded)
    finally:
        await engine.close()


class _Collecting(NativeEngine):
    """Writes the span that is built into a file instead."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._named = path, list[Tensor]()

    async def add_tensor(self, name: str, array: NDArray[Any]) -> None:
        """See ``ports.Engine``."""
        self._named.append((name, array))

    async def build(self, graph: bytes, shape: SpanShape) -> None:
        """See ``ports.Engine``."""
        write_tensors(self._path, graph, shape, self._named)


async def _run_in_wasm(model: Model, embedded: Floats, folder: Path) -> dict[str, Floats]:
    """embedded [1, n, hidden] through all blocks on our kernels: as one prompt, and step by step."""
    span, hidden, out = (folder / name for name in ("span", "hidden", "out"))
    blocks = BlockRange(0, model.config.num_hidden_layers)
    writer = ProgramWriter(model.config, blocks)
    await load_span(model.manifest, blocks, model.source, NoStore(), _Collecting(span), writer=writer)
    hidden.write_bytes(np.ascontiguousarray(embedded, np.float32).data)
    command = [NODE, HERE / "quality_runs.mjs", span, hidden, out]
    subprocess.run([str(part) for part in command], check=True)
    prompt, steps = np.frombuffer(out.read_bytes(), np.float32).reshape(2, *embedded.shape[1:])
    kept = "wasm, as the file has them, activations of"
    return {f"{kept} 16 bits: a prompt": prompt, f"{kept} 24 bits: steps": steps}


def _log_probabilities(head: LanguageHead, hidden: Floats) -> Floats:
    """hidden [n, hidden] -> log probabilities of the next token, float32 [n, vocabulary]."""
    variance = np.mean(np.square(hidden), axis=1, keepdims=True)
    logits = hidden / np.sqrt(variance + head.rms_norm_eps) * head.norm @ head.lm_head.T
    logits -= logits.max(axis=1, keepdims=True)
    result: Floats = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return result


def _compare(reference: Floats, found: Floats, wanted: NDArray[np.int64]) -> dict[str, float]:
    differences = np.sum(np.exp(reference) * (reference - found), axis=1, dtype=np.float64)
    own = found[np.arange(len(wanted)), wanted]
    return {
        "kl": float(differences.mean()),
        "worst kl": float(differences.max()),
        "perplexity": float(np.exp(-own.mean(dtype=np.float64))),
        "same best": float((reference.argmax(axis=1) == found.argmax(axis=1)).mean()),
    }


def _row(name: str, figure: dict[str, float]) -> Row:
    return Row(
        name,
        f"KL {max(figure['kl'], 0):.1e} (worst position {max(figure['worst kl'], 0):.1e})",
        f"perplexity {figure['perplexity']:.3f}, best token the same at {figure['same best']:.1%}",
    )

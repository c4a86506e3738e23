"""In which format a span's weights are kept in memory: the one asked for, or the best that fits.

Rule of the file: the choice is a pure function of the file's types, the engine and a budget of bytes,
and it says why. Unless somebody asks for it, or nothing else fits, nothing is chosen that computes with
other numbers than the file's.

* ``float32``: every number as the file means it: the fastest where onnxruntime uses a processor;
* ``q4``: blocks of 4 bits, and those of 8 beside them, as they are in the file, all else float32;
* ``q8``: blocks of 8 bits as they are; whatever else can be is rounded to 8 bits;
* ``float16``: weights, caches and arithmetic of half precision, on devices that have it;
* ``stored``: all as in the file, which is what our own kernels compute with, and the only way they do; the
  activations of long prompts have 16 bits, which costs less than a millionth of what formats of 4 bits cost;
* ``exact``: the same, and long prompts are computed as finely as steps, in half as much time again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from ..errors import ConfigError
from ..formats.config import ModelConfig, block_name
from ..formats.manifest import TensorEntry
from ..formats.quants import byte_length
from ..ports import Engine
from ..types import BlockRange
from .graph import OnnxWriter
from .matrices import Form
from .nbits import BLOCK
from .program import COARSE_FROM, ProgramWriter, kept_as_stored
from .writer import SpanWriter

AUTO, FLOAT32, FLOAT16, Q4, Q8 = "auto", "float32", "float16", "q4", "q8"
STORED, EXACT = "stored", "exact"
WEIGHT_FORMATS = (FLOAT32, FLOAT16, Q4, Q8, STORED, EXACT)
FLOAT = 4  # bytes
Entries = Mapping[str, TensorEntry]

# What a backend computes well, best first. On processors onnxruntime is exact with blocks only by writing
# whole matrices out at every product: a step through a block of SmolLM2 takes 1.9 ms of one core in float32,
# 12.8 with Q4_1 and 15.4 with Q8_0, so that there they only save memory.
_PREFERRED = {"cpu": (FLOAT32, Q4), "wasm": (STORED,), "webgpu": (Q4, Q8, FLOAT32, FLOAT16)}
# Petals' names for how weights are kept (``QuantType``), the nearest by bits a number: its clients and
# its health monitor only show them, and know no others.
_QUANT_TYPES = ((6.0, "nf4"), (10.0, "int8"))


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """What was chosen: ``size`` is what the span's tensors take in memory, in bytes, and ``bits`` what
    a number of a weight takes, on average.

    ``exact``: what is computed with are the file's numbers, to the rounding of float32; ``but`` says what is
    less fine than that, if anything is.
    """

    name: str
    size: int
    bits: float
    exact: bool
    writer: SpanWriter
    why: str = ""
    but: str = ""

    @property
    def quant_type(self) -> str:
        """As Petals' ``ServerInfo`` says it."""
        return next((name for most, name in _QUANT_TYPES if self.bits <= most), "none")

    @property
    def torch_dtype(self) -> str:
        """Of the arithmetic, as Petals' ``ServerInfo`` says it."""
        return FLOAT16 if self.name == FLOAT16 else FLOAT32

    def __str__(self) -> str:
        numbers = "the file's numbers" if self.exact else "rounded"
        return f"{self.name} ({self.size / 1e6:.0f} MB, {numbers}{self.but}), {self.why}"


def check_format(name: str) -> str:
    """``name`` if it may be asked for; ``ConfigError`` lists what may."""
    if name not in (AUTO, *WEIGHT_FORMATS):
        raise ConfigError(f"{name!r:.40} is no weight format; there are {', '.join((AUTO, *WEIGHT_FORMATS))}")
    return name


def choose(
    config: ModelConfig,
    blocks: BlockRange,
    entries: Entries,
    engine: Engine,
    wanted: str = AUTO,
    budget: int | None = None,
) -> WeightFormat:
    """How to keep ``entries``, the tensors of ``blocks`` by full name, in ``budget`` bytes on ``engine``.

    Raises ``ConfigError`` if the format asked for is none, or the engine or the file lacks it.
    """
    if check_format(wanted) != AUTO:
        found = _offer(wanted, config, blocks, entries, engine)
        if found is None:
            lacking = _ONLY_STORED if engine.graphs == "program" else _LACKING[wanted]
            raise ConfigError(f"{wanted} weights cannot be had here: {lacking}")
        return replace(found, why="as asked for")
    offers = [
        offer
        for name in _PREFERRED[engine.backend]
        if (offer := _offer(name, config, blocks, entries, engine)) is not None
    ]
    # what rounds is the last resort
    ranked = [offer for offer in offers if offer.exact] + [offer for offer in offers if not offer.exact]
    best = ranked[0]
    if budget is None or best.size <= budget:
        return replace(best, why=f"the best on {engine.backend}")
    too_much = f"as {best.name} would take {best.size / 1e6:.0f} MB of {budget / 1e6:.0f}"
    for offer in ranked:
        if offer.size <= budget:
            return replace(offer, why=too_much)
    smallest = min(ranked, key=lambda offer: offer.size)
    return replace(smallest, why=f"{too_much}, and nothing takes less")


_ONLY_STORED = "the wasm backend computes with weights as the file has them"
_LACKING = {
    STORED: "only the wasm backend computes with weights as the file has them",
    EXACT: "only the wasm backend computes with weights as the file has them",
    FLOAT16: "the device computes no half precision",
    Q4: "the file has no blocks of 4 bits that can be kept as they are",
    Q8: "the model's sizes are no multiples of 32",
}


def _offer(
    name: str, config: ModelConfig, blocks: BlockRange, entries: Entries, engine: Engine
) -> WeightFormat | None:
    """The format for these blocks; ``None`` if the engine or the file lacks it."""
    if (name in (STORED, EXACT)) != (engine.graphs == "program"):
        return None
    numbers = sum(prod(entry.shape) for entry in entries.values())
    if name in (STORED, EXACT):
        weights = _stored_size(entries)
        size = weights + FLOAT * config.max_position_embeddings * config.rotary_dim
        coarse = COARSE_FROM if name == STORED else None
        program = ProgramWriter(config, blocks, coarse)
        but = f"; prompts of {coarse} tokens and more in 16 bits" if coarse else ""
        return WeightFormat(name, size, 8 * weights / numbers, True, program, but=but)
    forms = forms_of(name, config, blocks, entries)
    if (name == FLOAT16 and not engine.half) or (name == Q8 and not forms):
        return None
    if name == Q4 and set(forms.values()) <= {Form.Q8}:
        return None
    writer = OnnxWriter(config, blocks, forms, real=FLOAT16 if name == FLOAT16 else FLOAT32)
    sizes = [
        (tensor, prod(shape) * np.dtype(dtype).itemsize) for tensor, dtype, shape in writer.tensor_shapes()
    ]
    size, bits = (
        sum(size for _, size in sizes),
        8 * sum(size for tensor, size in sizes if "." in tensor) / numbers,
    )
    exact = name in (FLOAT32, Q4) or (name == Q8 and forms == forms_of(Q4, config, blocks, entries))
    return WeightFormat(name, size, bits, exact, writer)


def _stored_size(entries: Entries) -> int:
    """What our kernels keep of the weights: the file's bytes, but of what they cannot read."""
    sizes = (
        byte_length(entry.dtype if kept_as_stored(entry.dtype, entry.shape) else "F32", prod(entry.shape))
        for entry in entries.values()
    )
    return sum(sizes)


def forms_of(name: str, config: ModelConfig, blocks: BlockRange, entries: Entries) -> dict[str, Form]:
    """The matrices, as ``OnnxWriter`` names them, that a format keeps in blocks."""
    if name not in (Q4, Q8):
        return {}
    forms: dict[str, Form] = {}
    for matrix, suffixes in OnnxWriter(config, blocks).matrices().items():
        position, _, _ = matrix.partition(".")
        parts = [entries[block_name(blocks.start + int(position), suffix)] for suffix in suffixes]
        columns = parts[0].shape[1]
        form = Form.exact([part.dtype for part in parts], columns)
        if name == Q8 and columns % BLOCK == 0:
            form = Form.Q8
        if form is not Form.FLOAT:
            forms[matrix] = form
    return forms

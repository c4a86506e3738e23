"""Which writer makes what an engine builds, by what the engine says it takes.

Rule of the file: one row for each kind of graph that ``ports.Engine.graphs`` can name.
"""

from __future__ import annotations

from collections.abc import Callable

from ..formats.config import ModelConfig
from ..types import BlockRange
from .graph import OnnxWriter
from .program import ProgramWriter
from .writer import SpanWriter

_WRITERS: dict[str, Callable[[ModelConfig, BlockRange], SpanWriter]] = {
    "onnx": OnnxWriter,
    "program": ProgramWriter,
}


def writer_for(graphs: str, config: ModelConfig, blocks: BlockRange) -> SpanWriter:
    """A writer of ``blocks`` for engines that take ``graphs``."""
    return _WRITERS[graphs](config, blocks)

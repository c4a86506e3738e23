"""What a model on disk is, without reading its weights: format, sizes, types, bytes of each block.

Rule of the file: only heads and JSON files are read, so that it is quick for the largest model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..formats.config import block_name
from ..formats.manifest import TensorEntry
from .model import default_name, look_into
from .reading import read_start

_MAGICS = {b"GGUF": "GGUF", b"PK\3\4": "PyTorch (zip)", b"tjgg": "GGML (ggjt)", b"fmgg": "GGML (ggmf)"}


@dataclass(frozen=True, slots=True)
class Share:
    """So many tensors of so many numbers in so many bytes."""

    tensors: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """``types`` by storage type; ``blocks`` are the bytes of each; ``outer`` those of embedding and head."""

    name: str
    format: str
    architecture: str
    config: dict[str, Any]
    files: dict[str, int]
    types: dict[str, Share]
    blocks: tuple[int, ...]
    outer: int

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        types = {name: {"tensors": one.tensors, "bytes": one.bytes} for name, one in self.types.items()}
        return {
            "name": self.name,
            "format": self.format,
            "architecture": self.architecture,
            "config": self.config,
            "files": self.files,
            "types": types,
            "block_bytes": list(self.blocks),
            "outer_bytes": self.outer,
        }


def describe_model(path: Path) -> ModelInfo:
    """Look into the model at ``path``. Raises as ``open_model`` does for all but the weights' content."""
    try:
        config, entries, files, _ = look_into(path)
        blocks = tuple(
            sum(entries[name].length for name in names if name in entries)
            for names in (
                [block_name(i, s) for s in config.block_shapes()] for i in range(config.num_hidden_layers)
            )
        )
        sizes = {name: file.stat().st_size for name, file in files.items()}
        kind = format_of(next(iter(files.values())))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None
    whole = sum(entry.length for entry in entries.values())
    types = _types(entries.values())
    return ModelInfo(
        default_name(path),
        kind,
        config.architecture,
        config.to_json(),
        sizes,
        types,
        blocks,
        whole - sum(blocks),
    )


def format_of(path: Path) -> str:
    """The name of a file's format, by its first bytes."""
    start = read_start(path, 9)
    if start[:4] in _MAGICS:
        return _MAGICS[start[:4]]
    if start[8:9] == b"{":
        return "SafeTensors"
    return "PyTorch (legacy)" if start[:1] == b"\x80" else "GGML"


def _types(entries: Iterable[TensorEntry]) -> dict[str, Share]:
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for entry in entries:
        count[entry.dtype] += 1
        size[entry.dtype] += entry.length
    return {dtype: Share(count[dtype], size[dtype]) for dtype, _ in size.most_common()}

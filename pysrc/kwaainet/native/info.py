"""What a model on disk is, without reading its weights: format, sizes, types, bytes of each block.

Rule of the file: only heads and JSON files are read, so that it is quick for the largest model; what cannot
be served is described all the same, with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, UnsupportedModel
from ..formats.config import block_name
from .checkpoint import find_shards, is_checkpoint, read_checkpoint
from .gguf_files import read_gguf
from .model import default_name, look_into, read_json
from .reading import read_start

_MAGICS = {b"GGUF": "GGUF", b"PK\3\4": "PyTorch (zip)", b"tjgg": "GGML (ggjt)", b"fmgg": "GGML (ggmf)"}


@dataclass(frozen=True, slots=True)
class Share:
    """So many tensors of so many numbers in so many bytes."""

    tensors: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as its file has it; of a model that can be served under Hugging Face's name."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


Tensors = Mapping[str, TensorInfo]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """``blocks`` are the bytes of each. ``problem``: why the model cannot be served; then nothing is known
    of its ``config`` and ``blocks``, and the tensors have the names of the file."""

    name: str
    format: str
    architecture: str
    config: dict[str, Any]
    files: dict[str, int]
    tensors: Tensors
    blocks: tuple[int, ...] = ()
    problem: str = ""

    @property
    def types(self) -> dict[str, Share]:
        """By storage type, the largest first."""
        count: Counter[str] = Counter()
        size: Counter[str] = Counter()
        for tensor in self.tensors.values():
            count[tensor.dtype] += 1
            size[tensor.dtype] += tensor.bytes
        return {dtype: Share(count[dtype], size[dtype]) for dtype, _ in size.most_common()}

    @property
    def outer(self) -> int:
        """The bytes of embedding and head."""
        return sum(tensor.bytes for tensor in self.tensors.values()) - sum(self.blocks)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        types = {name: {"tensors": one.tensors, "bytes": one.bytes} for name, one in self.types.items()}
        tensors = {
            name: {"type": one.dtype, "shape": list(one.shape), "bytes": one.bytes}
            for name, one in self.tensors.items()
        }
        return {
            "name": self.name,
            "format": self.format,
            "architecture": self.architecture,
            "problem": self.problem,
            "config": self.config,
            "files": self.files,
            "types": types,
            "block_bytes": list(self.blocks),
            "outer_bytes": self.outer,
            "tensors": tensors,
        }


def describe_model(path: Path) -> ModelInfo:
    """Look into the model at ``path``. Raises as ``open_model`` does for all but the weights' content,
    and for what cannot be served but listed."""
    try:
        return _describe(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None


def _describe(path: Path) -> ModelInfo:
    try:
        config, entries, files, _ = look_into(path)
    except UnsupportedModel as error:
        return _unserved(path, str(error))
    blocks = tuple(
        sum(entries[name].length for name in names if name in entries)
        for names in (
            [block_name(i, s) for s in config.block_shapes()] for i in range(config.num_hidden_layers)
        )
    )
    tensors = {name: TensorInfo(one.dtype, one.shape, one.length) for name, one in entries.items()}
    return _info(path, files, tensors, config.architecture, config=config.to_json(), blocks=blocks)


def _unserved(path: Path, problem: str) -> ModelInfo:
    """What can be said of a model of another architecture; raises where not even its tensors can be read."""
    architecture: object = None
    tensors: dict[str, TensorInfo] = {}
    if path.is_dir() or is_checkpoint(path):
        folder = path if path.is_dir() else path.parent
        if (folder / "config.json").is_file():
            architecture = read_json(folder / "config.json").get("model_type")
        files = {file: folder / file for file in (find_shards(path) if path.is_dir() else [path.name])}
        for file in files.values():
            for name, one in read_checkpoint(file, []).items():
                tensors[name] = TensorInfo(one.dtype, one.shape, one.length)
    else:
        index, files = read_gguf(path)
        architecture = index.metadata.get("general.architecture")
        tensors = {name: TensorInfo(one.dtype, one.shape, one.length) for name, one in index.tensors.items()}
    return _info(path, files, tensors, str(architecture or "unknown")[:80], problem=problem)


def _info(
    path: Path, files: Mapping[str, Path], tensors: Tensors, architecture: str, **more: Any
) -> ModelInfo:
    sizes = {name: file.stat().st_size for name, file in files.items()}
    form = format_of(next(iter(files.values())))
    return ModelInfo(default_name(path), form, architecture, more.pop("config", {}), sizes, tensors, **more)


def format_of(path: Path) -> str:
    """The name of a file's format, by its first bytes."""
    start = read_start(path, 9)
    if start[:4] in _MAGICS:
        return _MAGICS[start[:4]]
    if start[8:9] == b"{":
        return "SafeTensors"
    return "PyTorch (legacy)" if start[:1] == b"\x80" else "GGML"

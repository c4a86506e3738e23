"""Reads the heads of GGUF files on disk, whole or in shards, and of the GGML files before them.

Rule of the file: what a file is, its first bytes say; every error names the file that it is in.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..formats import ggml, gguf_shards
from ..formats.ggml import ASSUMED, Assumed
from ..formats.gguf import GgufIndex
from ..formats.manifest import check_file_name
from .reading import read_ranges, read_start


def read_gguf(path: Path, assumed: Assumed = ASSUMED) -> tuple[GgufIndex, dict[str, Path]]:
    """What the model says that ``path`` is, or is a part of, and its files by name.

    ``assumed`` is what a GGML file does not say. Raises ``ModelFileError``, ``UnsupportedModel``, and
    ``InputError`` if one of several files is missing.
    """
    check_file_name(path.name)
    if ggml.is_ggml(read_start(path, 4)):
        return read_ranges(path, lambda size: ggml.read_index(size, assumed)), {path.name: path}
    folder = path.parent
    present = {name for name in gguf_shards.shard_names(path.name) if (folder / name).is_file()}
    files = {name: folder / name for name in gguf_shards.require_shards(present, path.name)}
    shards = {name: _read_part(each, alone=len(files) == 1) for name, each in files.items()}
    return gguf_shards.join(shards), files


def _read_part(path: Path, *, alone: bool) -> GgufIndex:
    try:
        return read_ranges(path, gguf_shards.read_index)
    except InputError as error:
        if alone:
            raise
        raise type(error)(f"{path.name}: {error}") from None

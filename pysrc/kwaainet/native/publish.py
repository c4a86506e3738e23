"""Publishes a model for tabs: a manifest of every tensor's place and hash, for any host of files.

Rule of the file: what is published is what the model's files hold, byte for byte; a folder has a
manifest only when everything that it names is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

from ..errors import ConfigError, InputError
from ..formats.manifest import ModelManifest, TensorEntry
from ..ports import Report
from ..types import BlockRange, Progress
from .model import Model
from .partial import WrittenFiles

MANIFEST, TEXT = "manifest.json", "text.json"  # beside the files of weights, on the host
_AT_ONCE = 4 << 20
_ALIGNMENT = 64


def publish(model: Model, out: Path, report: Report, *, parts: int | None = None) -> ModelManifest:
    """Write the manifest, and what a chat needs, to ``out``; the manifest is also returned.

    Without ``parts`` it names the model's own files, which are to lie beside it; with 0 there is one
    file a block, else so many files of blocks, and one more of embedding and head. Raises
    ``ConfigError`` if ``out`` cannot be written or has a manifest already.
    """
    manifest = model.manifest
    with WrittenFiles(out) as files:
        files.must_be_new(MANIFEST)
        if parts is not None:
            manifest = _write_parts(model, _split(model, parts), files, report)
        with suppress(InputError):  # its blocks can be served all the same; nothing offers a chat
            files.write(TEXT, model.text.to_json().encode())
        files.write(MANIFEST, manifest.to_json().encode())
    return manifest


def _split(model: Model, parts: int) -> dict[str, list[str]]:
    """The tensors of each file to write."""
    count = model.config.num_hidden_layers
    parts = parts or count
    if not 0 < parts <= count:
        raise ConfigError(f"{parts} parts: the model has {count} blocks; give 1 to {count}")
    bounds = [count * part // parts for part in range(parts + 1)]
    files = {
        f"blocks-{begin:04}-{end - 1:04}.bin": list(model.manifest.span(BlockRange(begin, end)))
        for begin, end in pairwise(bounds)
    }
    inner = {name for names in files.values() for name in names}
    return {"outer.bin": [name for name in model.manifest.tensors if name not in inner], **files}


def _write_parts(
    model: Model, parts: Mapping[str, Sequence[str]], files: WrittenFiles, report: Report
) -> ModelManifest:
    entries: dict[str, TensorEntry] = {}
    total, done = sum(entry.length for entry in model.manifest.tensors.values()), 0
    for part, names in parts.items():
        with files.open(part) as file:
            for name in names:
                entry, digest = model.manifest.tensors[name], sha256()
                file.write(bytes(-file.tell() % _ALIGNMENT))
                entries[name] = replace(entry, file=part, offset=file.tell())
                for chunk in _chunks(model, entry):
                    file.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    report(Progress("split", done, total))
                if digest.hexdigest() != entry.sha256:
                    raise InputError(f"{model.path} changed while it was being read; begin again")
    ordered = {name: entries[name] for name in model.manifest.tensors}
    return ModelManifest(model.name, model.config, ordered)


def _chunks(model: Model, entry: TensorEntry) -> Iterator[bytes]:
    for position in range(0, entry.length, _AT_ONCE):
        length = min(_AT_ONCE, entry.length - position)
        yield model.source.read_now(entry.file, entry.offset + position, length)

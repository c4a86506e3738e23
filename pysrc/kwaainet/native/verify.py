"""Whether a model's files still hold what they should: every tensor, each by its name.

Rule of the file: it goes on after what is wrong, so that all of it is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..formats.manifest import ModelManifest, TensorEntry
from ..formats.weights import Weight
from ..ports import Report
from ..types import Progress
from .model import look_into
from .store import FileSource


def verify_published(manifest: ModelManifest, folder: Path, report: Report) -> dict[str, str]:
    """What is wrong, by tensor: bytes in ``folder`` that are missing or have not the manifest's hash."""
    source = FileSource({entry.file: folder / entry.file for entry in manifest.tensors.values()})

    def problem(entry: TensorEntry, data: bytes) -> str:
        found = sha256(data).hexdigest()
        stated = f"has the sha256 {found}, the manifest says {entry.sha256}"
        return "" if found == entry.sha256 else stated

    return _problems(manifest.tensors, source, problem, report)


def verify_model(path: Path, report: Report) -> dict[str, str]:
    """What is wrong, by tensor: bytes that cannot be read, or numbers that are infinite or none.

    Raises as ``open_model`` does where the model's head is broken already.
    """
    try:
        config, entries, files, _ = look_into(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None

    def problem(entry: TensorEntry, data: bytes) -> str:
        numbers = Weight.stored(entry, data).floats(config)
        bad = numbers.size - int(np.isfinite(numbers).sum())
        return f"has {bad} numbers that are infinite or none" if bad else ""

    return _problems(entries, FileSource(files), problem, report)


def _problems(
    entries: Mapping[str, TensorEntry],
    source: FileSource,
    problem: Callable[[TensorEntry, bytes], str],
    report: Report,
) -> dict[str, str]:
    found: dict[str, str] = {}
    total, done = sum(entry.length for entry in entries.values()), 0
    report(Progress("verify", 0, total))
    for name, entry in entries.items():
        try:
            wrong = problem(entry, source.read_now(entry.file, entry.offset, entry.length))
        except InputError as error:
            wrong = str(error)
        if wrong:
            found[name] = wrong
        done += entry.length
        report(Progress("verify", done, total))
    return found

"""Drives the formats' readers over files on disk.

Rule of the file: a reader gets the bytes it asks for or a clear error; a file is never read whole.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import ModelFileError
from ..formats.reading import Reading, drive

_T = TypeVar("_T")


def read_limited(path: Path, cap: int) -> bytes:
    """All of a small file; ``ModelFileError`` if it is larger than ``cap`` bytes."""
    if path.stat().st_size > cap:
        raise ModelFileError(f"{path.name} is larger than the {cap} bytes allowed")
    return path.read_bytes()


def read_start(path: Path, length: int) -> bytes:
    """The first bytes of a file, fewer if it has fewer."""
    with path.open("rb") as file:
        return file.read(length)


def read_ranges(path: Path, begin: Callable[[int], Reading[_T]]) -> _T:
    """The result of the reading that ``begin`` starts for a file of that size."""
    with path.open("rb") as file:

        def read(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        return drive(begin(path.stat().st_size), read)

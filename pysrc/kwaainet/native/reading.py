"""Drives the formats' readers over files on disk.

Rule of the file: a reader gets the bytes it asks for or a clear error; a file is never read whole.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import ModelFileError, Truncated
from ..formats.stored import Reading

_FIRST_READ = 1 << 20  # bytes; a head of SafeTensors fits, one of GGUF takes a read or two more

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


def read_head(path: Path, parse: Callable[[bytes, int], _T]) -> _T:
    """Feed ``parse`` ever more of the file until it has the whole head."""
    size, wanted = path.stat().st_size, _FIRST_READ
    with path.open("rb") as file:
        data = b""
        while True:
            data += file.read(wanted - len(data))
            try:
                return parse(data, size)
            except Truncated as more:
                if more.needed > size or len(data) < min(wanted, size):
                    raise ModelFileError(f"truncated: the file ends at byte {size} inside its head") from None
                wanted = min(max(more.needed, 2 * wanted), size)


def read_ranges(path: Path, begin: Callable[[int], Reading[_T]]) -> _T:
    """The result of the reading that ``begin`` starts for a file of that size."""
    reading = begin(path.stat().st_size)
    with path.open("rb") as file:
        try:
            offset, length = next(reading)
            while True:
                file.seek(offset)
                data = file.read(length)
                if len(data) != length:
                    raise ModelFileError(f"truncated: the file has not the {length} bytes at {offset}")
                offset, length = reading.send(data)
        except StopIteration as done:
            result: _T = done.value
            return result

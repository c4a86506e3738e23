"""How a format's reader asks for the bytes it needs, so that one reader serves disk, network and tab.

Rule of the file: a reader is a generator that does no I/O; whoever drives it has the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

from ..errors import ModelFileError, Truncated

T = TypeVar("T")

# Yields (offset, length), is sent exactly those bytes, and returns what the file says.
Reading: TypeAlias = Generator[tuple[int, int], bytes, T]

FIRST_READ = 1 << 20  # bytes; a head of SafeTensors fits, one of GGUF takes a read or two more


def read_head(parse: Callable[[bytes, int], T], size: int, cap: int) -> Reading[T]:
    """Give ``parse`` ever more of a file of ``size`` bytes until it has the whole head.

    ``parse`` takes a prefix and the size and raises ``Truncated`` for more, ``ModelFileError`` beyond
    ``cap`` bytes. Each read at least doubles the prefix, so that all take little more than the last.
    """
    data, wanted = b"", min(FIRST_READ, size)
    while True:
        data += yield len(data), wanted - len(data)
        try:
            return parse(data, size)
        except Truncated as more:
            if more.needed > size or more.needed > cap:
                raise ModelFileError(
                    f"truncated: the file ends at byte {size} inside its head (of {cap} bytes at most)"
                ) from None
            wanted = min(max(more.needed, 2 * len(data)), size, cap)


def drive(reading: Reading[T], read: Callable[[int, int], bytes]) -> T:
    """The result of ``reading``; ``read(offset, length)`` has the bytes and may block."""
    data: bytes | None = None
    while True:
        try:
            offset, length = reading.send(data) if data is not None else next(reading)
        except StopIteration as done:
            result: T = done.value
            return result
        data = read(offset, length)
        if len(data) != length:
            raise ModelFileError(f"truncated: the file has not the {length} bytes at {offset}")

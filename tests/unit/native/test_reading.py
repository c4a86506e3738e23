"""A reader gets exactly the bytes it asks for; a file that ends too early is an error that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from kwaainet.errors import ModelFileError
from kwaainet.formats.reading import Reading
from kwaainet.native.reading import read_limited, read_ranges, read_start


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 8192)
    return file


def test_ranges_are_what_was_asked_for(path: Path) -> None:
    def reading(size: int, offset: int) -> Reading[bytes]:
        first = yield 1, 2
        second = yield offset, 3
        return first + second

    assert read_ranges(path, lambda size: reading(size, size - 3)) == bytes([1, 2, 253, 254, 255])
    with pytest.raises(ModelFileError, match="has not the 3 bytes at 2097150"):
        read_ranges(path, lambda size: reading(size, size - 2))


def test_small_files_and_starts(path: Path) -> None:
    assert read_start(path, 3) == bytes([0, 1, 2])
    assert len(read_limited(path, 1 << 21)) == 1 << 21
    with pytest.raises(ModelFileError, match="file is larger than the 100 bytes"):
        read_limited(path, 100)

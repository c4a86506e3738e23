"""Ranges on disk: the port's promises, and what only a disk can do to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kwaainet.errors import ModelFileError
from kwaainet.native.store import FileSource
from kwaainet.ports import RangeSource
from kwaainet.testing.compliance import SAMPLE, SAMPLE_FILE, SOURCE_CHECKS

DATA = b"a tensor"


@pytest.mark.parametrize("check", SOURCE_CHECKS)
def test_source_keeps_its_promises(check: Callable[[RangeSource], Awaitable[None]], tmp_path: Path) -> None:
    (tmp_path / "sample").write_bytes(SAMPLE)

    async def main() -> None:
        await check(FileSource({SAMPLE_FILE: tmp_path / "sample"}))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("file", "offset", "length", "message"),
    [
        ("../secret", 0, 1, "'../secret' is not a file of this model"),
        ("model", -1, 1, "1 bytes at -1 cannot be read"),
        ("model", 0, -1, "-1 bytes at 0 cannot be read"),
        ("model", 4, 5, "ends 1 bytes too early; is it truncated"),
        ("model", 1 << 70, 1, "cannot be read"),
        ("gone", 0, 1, "cannot read"),
    ],
)
def test_reads_that_cannot_be(tmp_path: Path, file: str, offset: int, length: int, message: str) -> None:
    (tmp_path / "model").write_bytes(DATA)
    source = FileSource({"model": tmp_path / "model", "gone": tmp_path / "gone"})
    with pytest.raises(ModelFileError, match=message):
        asyncio.run(source.read(file, offset, length))

"""Blobs and ranges on disk: the ports' promises, and what only a disk can do to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

import pytest

from kwaainet.errors import ModelFileError
from kwaainet.native.store import FileSource, FileStore
from kwaainet.ports import BlobStore, RangeSource
from kwaainet.testing.compliance import SAMPLE, SAMPLE_FILE, SOURCE_CHECKS, STORE_CHECKS

DATA = b"a tensor"
DIGEST = sha256(DATA).hexdigest()


@pytest.mark.parametrize("check", STORE_CHECKS)
def test_store_keeps_its_promises(check: Callable[[BlobStore], Awaitable[None]], tmp_path: Path) -> None:
    async def main() -> None:
        await check(FileStore(tmp_path / "new" / "folder"))

    asyncio.run(main())


@pytest.mark.parametrize("check", SOURCE_CHECKS)
def test_source_keeps_its_promises(check: Callable[[RangeSource], Awaitable[None]], tmp_path: Path) -> None:
    (tmp_path / "sample").write_bytes(SAMPLE)

    async def main() -> None:
        await check(FileSource({SAMPLE_FILE: tmp_path / "sample"}))

    asyncio.run(main())


def test_blobs_outlive_the_store(tmp_path: Path) -> None:
    asyncio.run(FileStore(tmp_path).put(DIGEST, DATA))
    assert asyncio.run(FileStore(tmp_path).get(DIGEST)) == DATA
    assert [path.name for path in tmp_path.iterdir()] == [DIGEST]  # and nothing temporary is left


def test_damaged_blobs_are_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / DIGEST).write_bytes(b"a tensos")
    assert asyncio.run(FileStore(tmp_path).get(DIGEST)) is None
    assert not (tmp_path / DIGEST).exists()
    assert "is damaged" in caplog.text


def test_a_folder_that_cannot_be_used_is_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = FileStore(tmp_path / "file" / "folder")
    asyncio.run(store.put(DIGEST, DATA))
    assert "cannot keep" in caplog.text
    assert asyncio.run(store.get(DIGEST)) is None


def test_digests_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(DATA)
    assert asyncio.run(FileStore(tmp_path / "blobs").get("../secret")) is None


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

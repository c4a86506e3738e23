"""Blobs and ranges on disk: the ports' promises, and what only a disk can do to them."""

from __future__ import annotations

import asyncio
import os
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


def kept(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in folder.iterdir()}


def put(store: FileStore, data: bytes) -> None:
    asyncio.run(store.put(sha256(data).hexdigest(), data))


def aged(folder: Path, data: bytes, seconds: int) -> None:
    """As if it had been used last that long after the beginning of time."""
    os.utime(folder / sha256(data).hexdigest(), (seconds, seconds))


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    old, older, oldest, new = (letter * 100 for letter in (b"a", b"b", b"c", b"d"))
    before = FileStore(tmp_path, budget=300)
    for seconds, data in ((3, old), (2, older), (1, oldest)):
        put(before, data)
        aged(tmp_path, data, seconds)
    store = FileStore(tmp_path, budget=300)
    assert asyncio.run(store.get(sha256(oldest).hexdigest())) == oldest, "it is in use from now on"
    put(store, new)
    assert kept(tmp_path) == {old, oldest, new}


def test_what_is_in_use_stays_and_what_has_no_room_is_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FileStore(tmp_path, budget=250)
    for data in (b"a" * 100, b"b" * 100, b"c" * 100):
        put(store, data)
    assert kept(tmp_path) == {b"a" * 100, b"b" * 100}
    assert "budget of 250" in caplog.text
    asyncio.run(store.put_part(DIGEST, 0, b"x" * 51))
    assert asyncio.run(store.get_part(DIGEST)) == b""
    asyncio.run(store.put_part(DIGEST, 0, b"x" * 50))
    assert asyncio.run(store.get_part(DIGEST)) == b"x" * 50, "parts count, and may have what is left"


def test_a_part_goes_as_a_whole_blob_does_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    (tmp_path / "README").write_bytes(b"somebody's")
    asyncio.run(FileStore(tmp_path, budget=100).put_part(DIGEST, 0, b"x" * 60))
    put(FileStore(tmp_path, budget=100), b"y" * 100)
    assert kept(tmp_path) == {b"somebody's", b"y" * 100}


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

"""``BlobStore`` and ``RangeSource`` over files.

Rule of the file: bytes that come back are the bytes that were meant; blobs are hashed on every
read, what was not used for longest goes first, and a source reads only the files it was made for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import tempfile
import threading
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from ..errors import IntegrityError, ModelFileError

log = logging.getLogger(__name__)
_DIGEST = re.compile(r"[0-9a-f]{64}")
BUDGET = 64 << 30  # bytes of blobs in a folder, unless said otherwise
_PART = ".part"  # behind the digest of a blob that is not whole yet


class NoStore:
    """Keeps nothing: for a model that lies on this machine's disk already."""

    async def get(self, digest: str) -> bytes | None:
        """See ``ports.BlobStore``."""
        return None

    async def put(self, digest: str, data: bytes) -> None:
        """See ``ports.BlobStore``."""

    async def get_part(self, digest: str) -> bytes:
        """See ``ports.BlobStore``."""
        return b""

    async def put_part(self, digest: str, offset: int, data: bytes) -> None:
        """See ``ports.BlobStore``."""


class FileStore:
    """``ports.BlobStore``: one file a blob, named by its hash, in a folder of its own.

    The files take at most ``budget`` bytes. For a new one those go that were used longest ago, which a
    file's date of change says, but none that this store has read or written itself.
    """

    def __init__(self, folder: Path, budget: int = BUDGET) -> None:
        self._folder, self._budget = folder, budget
        self._used: set[str] = set()  # digests
        self._writing = threading.Lock()  # room is made for one at a time

    async def get(self, digest: str) -> bytes | None:
        """The bytes, or ``None`` if absent or no longer matching their hash (then dropped)."""
        return await asyncio.to_thread(self._get, digest)

    async def put(self, digest: str, data: bytes) -> None:
        """Keep bytes. Raises ``IntegrityError`` if they do not match; a full disk is only logged."""
        await asyncio.to_thread(self._put, digest, data)

    async def get_part(self, digest: str) -> bytes:
        """See ``ports.BlobStore``."""
        return await asyncio.to_thread(self._get_part, digest)

    async def put_part(self, digest: str, offset: int, data: bytes) -> None:
        """See ``ports.BlobStore``."""
        await asyncio.to_thread(self._put_part, digest, offset, data)

    def _get(self, digest: str) -> bytes | None:
        if not _DIGEST.fullmatch(digest):
            return None
        path = self._folder / digest
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("cannot read %s: %s", path, error)
            return None
        if sha256(data).hexdigest() == digest:
            self._used.add(digest)
            with contextlib.suppress(OSError):  # a folder that cannot be written to
                os.utime(path)
            return data
        log.warning("%s is damaged and is dropped", path)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot drop %s: %s", path, error)
        return None

    def _put(self, digest: str, data: bytes) -> None:
        if sha256(data).hexdigest() != digest:
            raise IntegrityError(f"{len(data)} bytes do not have the sha256 {digest!r:.80}")
        path = self._folder / digest
        try:
            with self._writing:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._part(digest).unlink(missing_ok=True)
                if self._has_room(digest, len(data)):
                    _write_atomically(path, data)
        except OSError as error:
            log.warning("cannot keep %s: %s", path, error)

    def _part(self, digest: str) -> Path:
        return self._folder / f"{digest}{_PART}"

    def _has_room(self, digest: str, more: int) -> bool:
        """Make room for ``more`` bytes of a blob; whether there is."""
        self._used.add(digest)
        found = [(path, path.stat()) for path in self._folder.iterdir() if _is_ours(path.name)]
        excess = sum(stat.st_size for _, stat in found) + more - self._budget
        for path, stat in sorted(found, key=lambda one: one[1].st_mtime_ns):
            if excess <= 0:
                break
            if path.name.removesuffix(_PART) not in self._used:
                path.unlink(missing_ok=True)
                excess -= stat.st_size
        if excess > 0:
            log.warning(
                "%s is full: %d bytes of what is in use and the budget of %d leave no room for %s; "
                "it will be fetched again",
                self._folder,
                excess + self._budget - more,
                self._budget,
                digest,
            )
        return excess <= 0

    def _get_part(self, digest: str) -> bytes:
        try:
            return self._part(digest).read_bytes() if _DIGEST.fullmatch(digest) else b""
        except OSError:
            return b""

    def _put_part(self, digest: str, offset: int, data: bytes) -> None:
        if not _DIGEST.fullmatch(digest):
            return
        path = self._part(digest)
        try:
            with self._writing:
                self._folder.mkdir(parents=True, exist_ok=True)
                if offset == 0:
                    path.unlink(missing_ok=True)
                held = path.stat().st_size if path.is_file() else 0
                if data and held == offset and self._has_room(digest, len(data)):
                    with path.open("ab") as file:
                        file.write(data)
        except OSError as error:
            log.warning("cannot keep a part of %s: %s", path, error)


def _is_ours(name: str) -> bool:
    return _DIGEST.fullmatch(name.removesuffix(_PART)) is not None


def _write_atomically(path: Path, data: bytes) -> None:
    """A reader sees the whole file or none, whenever this process dies."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:16]}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class FileSource:
    """``ports.RangeSource`` over the named files, wherever they lie; no other can be read."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = dict(files)

    async def read(self, file: str, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes. Raises ``ModelFileError`` (unknown or short file)."""
        return await asyncio.to_thread(self.read_now, file, offset, length)

    def read_now(self, file: str, offset: int, length: int) -> bytes:
        """As ``read``, for code that may block."""
        path = self._files.get(file)
        if path is None:
            raise ModelFileError(f"{file!r:.80} is not a file of this model")
        if not (0 <= offset < 1 << 62 and 0 <= length < 1 << 62):
            raise ModelFileError(f"{file}: {length} bytes at {offset} cannot be read")
        try:
            with path.open("rb") as opened:
                opened.seek(offset)
                data = opened.read(length)
        except OSError as error:
            raise ModelFileError(f"cannot read {file} at {path}: {error.strerror}") from None
        if len(data) != length:
            raise ModelFileError(
                f"{file} at {path} ends {length - len(data)} bytes too early; is it truncated?"
            )
        return data

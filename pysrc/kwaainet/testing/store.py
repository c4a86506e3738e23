"""A blob store and a range source in memory.

Rule of the file: the same checks as the adapters that keep bytes on disk, in OPFS or behind HTTP.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from ..errors import IntegrityError, ModelFileError

DIGEST = re.compile(r"[0-9a-f]{64}")


class MemoryStore:
    """``ports.BlobStore`` in a dictionary. ``capacity``: bytes it keeps; more is dropped silently,
    as a full disk would."""

    def __init__(self, capacity: int | None = None) -> None:
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[str, bytes] = {}
        self._capacity = capacity

    async def get(self, digest: str) -> bytes | None:
        data = self.blobs.get(digest)
        if data is not None and _sha256(data) != digest:
            del self.blobs[digest]
            return None
        return data

    async def put(self, digest: str, data: bytes) -> None:
        actual = _sha256(data)
        if actual != digest:
            raise IntegrityError(f"{len(data)} bytes have the sha256 {actual}, not {digest}: refused")
        held = sum(map(len, self.blobs.values()))
        if self._capacity is None or held + len(data) <= self._capacity:
            self.blobs[digest] = bytes(data)
        self.parts.pop(digest, None)

    async def get_part(self, digest: str) -> bytes:
        return self.parts.get(digest, b"")

    async def put_part(self, digest: str, offset: int, data: bytes) -> None:
        before = b"" if offset == 0 else self.parts.get(digest, b"")
        if DIGEST.fullmatch(digest) and offset == len(before):
            self.parts[digest] = before + data


class MemorySource:
    """``ports.RangeSource`` over files given as bytes. ``reads`` lists (file, offset, length)."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = dict(files)
        self.reads: list[tuple[str, int, int]] = []

    async def read(self, file: str, offset: int, length: int) -> bytes:
        self.reads.append((file, offset, length))
        data = self._files.get(file)
        if data is None:
            raise ModelFileError(f"there is no file {file!r}; there are {sorted(self._files)}")
        if offset < 0 or length < 0 or offset + length > len(data):
            raise ModelFileError(
                f"{file!r} has {len(data)} bytes, {length} at offset {offset} were asked for: it is too short"
            )
        return data[offset : offset + length]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

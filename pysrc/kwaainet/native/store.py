"""``RangeSource`` over files, and the ``BlobStore`` of those who have their model in files.

Rule of the file: a source reads only the files it was made for, and nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from ..errors import ModelFileError


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

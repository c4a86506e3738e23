"""``ports.BlobStore`` over OPFS and ``ports.RangeSource`` over HTTP, through web/bridge/store.ts.

Rule of the file: JavaScript makes one attempt and says what happened; what that means, and whether
to try again, is decided here.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from ..errors import IntegrityError, ModelFileError, Unreachable

log = logging.getLogger(__name__)

MISMATCH = "mismatch"  # what ``BlobFiles.write`` says of bytes that have another hash
ATTEMPTS = 6  # at one range; with the waits below some 15 seconds without a network
MAX_BREAKS = 32  # answers to one read that broke off and had brought something
FIRST_WAIT = 0.5  # seconds before the second attempt; doubles
_DIGEST = re.compile("[0-9a-f]{64}")
_TEMPORARY = frozenset({0, 408, 425, 429, 500, 502, 503, 504})  # 0: the network gave no answer


class BlobFiles(Protocol):
    """Files named by the hash of their content."""

    async def read(self, digest: str) -> bytes | None:
        """The content, or ``None`` when absent or damaged (then dropped)."""

    async def write(self, digest: str, data: bytes) -> str:
        """Empty when kept, ``MISMATCH``, or why it could not be kept."""

    async def read_part(self, digest: str) -> bytes | None:
        """What is kept of a blob that is not whole, or ``None``."""

    async def write_part(self, digest: str, offset: int, data: bytes) -> str:
        """Empty when kept, or why not."""


@dataclass(frozen=True, slots=True)
class RangeAnswer:
    """One attempt: an HTTP ``status`` (0 = none), the file's ``total`` bytes (-1 = not told).

    ``body`` is ``None`` unless the answer is the range that was asked for; it may be cut short, then
    ``reason`` may say why.
    """

    status: int
    total: int
    body: bytes | None
    reason: str


class RangeFetcher(Protocol):
    """One HTTP request for a range."""

    async def fetch(self, url: str, offset: int, length: int) -> RangeAnswer:
        """Never raises for what the network or the server does."""


class BrowserStore:
    """The tab's blobs. They survive reloads until the browser needs the room."""

    def __init__(self, files: BlobFiles) -> None:
        self._files = files

    async def get(self, digest: str) -> bytes | None:
        """See ``ports.BlobStore``."""
        return await self._files.read(digest) if _DIGEST.fullmatch(digest) else None

    async def put(self, digest: str, data: bytes) -> None:
        """See ``ports.BlobStore``."""
        if not _DIGEST.fullmatch(digest):
            raise IntegrityError(f"{digest[:80]!r} is not a sha256 in lower-case hex")
        problem = await self._files.write(digest, data)
        if problem == MISMATCH:
            raise IntegrityError(f"{len(data)} bytes do not have the sha256 {digest}")
        if problem:
            log.warning("%d bytes could not be kept and will be fetched again: %s", len(data), problem)

    async def get_part(self, digest: str) -> bytes:
        """See ``ports.BlobStore``."""
        return await self._files.read_part(digest) or b"" if _DIGEST.fullmatch(digest) else b""

    async def put_part(self, digest: str, offset: int, data: bytes) -> None:
        """See ``ports.BlobStore``."""
        if _DIGEST.fullmatch(digest) and (problem := await self._files.write_part(digest, offset, data)):
            log.info("%d bytes of %s could not be kept: %s", len(data), digest, problem)


class BrowserSource:
    """A model's files below one address, such as ``https://relay/model/``."""

    def __init__(self, fetcher: RangeFetcher, base: str) -> None:
        self._fetcher, self._base = fetcher, base

    async def read(self, file: str, offset: int, length: int) -> bytes:
        """See ``ports.RangeSource``; goes on where an answer broke off, and is repeated while the network or
        the server is out for a moment."""
        data, attempt, breaks, reason = b"", 0, 0, ""
        while len(data) < length and attempt < ATTEMPTS:
            if attempt:
                await asyncio.sleep(FIRST_WAIT * 2 ** (attempt - 1))
            start, left = offset + len(data), length - len(data)
            answer = await self._fetcher.fetch(self._base + quote(file), start, left)
            if answer.body is None or len(answer.body) != left:
                self._check(answer, file, start, left)
                came, breaks = len(answer.body or b""), breaks + 1
                reason = answer.reason or f"status {answer.status}, {came} of {left} bytes"
                attempt = 1 if came and breaks < MAX_BREAKS else attempt + 1
                log.warning("%s at %d: %s; attempt %d of %d", file, start, reason, attempt, ATTEMPTS)
            data += (answer.body or b"")[:left]
        if len(data) == length:
            return data
        hint = "; a host of another origin must allow it (Access-Control-Allow-Origin)"
        raise Unreachable(
            f"{self._base} did not send {file} in {ATTEMPTS} attempts: {reason}"
            + (hint if answer.status == 0 else "")
        )

    def _check(self, answer: RangeAnswer, file: str, offset: int, length: int) -> None:
        """Raise for what another attempt cannot mend."""
        if answer.status == 416 or 0 <= answer.total < offset + length:
            size = f"{answer.total} bytes" if answer.total >= 0 else "shorter"
            raise ModelFileError(
                f"{file} is {size}; {length} at {offset} are beyond its end, so the manifest is of another"
            )
        if answer.status in (404, 410):
            raise ModelFileError(f"{self._base} has no {file}; is the manifest of another model?")
        if answer.status == 200:
            raise Unreachable(
                f"{self._base} ignores Range and would send all of {file}; serve it by a server with Range"
            )
        if answer.status not in _TEMPORARY and answer.status != 206:
            raise Unreachable(f"{self._base} refuses {file} with status {answer.status} {answer.reason}")

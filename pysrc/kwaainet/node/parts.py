"""What was fetched of a tensor that is not whole yet, kept so that an interrupted download goes on there.

Rule of the file: a part begins at the tensor's start and has no gaps; nobody trusts it, so the hash of the
whole decides, and a part of a whole that was wrong is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..formats.manifest import MAX_READ, TensorEntry
from ..ports import BlobStore


class Parts:
    """The parts of tensors that take more than one read; the others are fetched again as they are."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._ends: dict[str, int] = {}  # how far each part goes, by digest
        self._beyond: dict[str, dict[int, bytes]] = {}  # what came before what it follows

    async def of(self, entries: Mapping[str, TensorEntry]) -> dict[str, bytes]:
        """What is kept of ``entries`` by their names: never all of one, so that a read completes it."""
        found = {}
        for name, entry in entries.items():
            part = await self._store.get_part(entry.sha256) if entry.length > MAX_READ else b""
            self._ends[entry.sha256] = len(part)
            if len(part) >= entry.length:
                await self.drop([entry])
            elif part:
                found[name] = part
        return found

    async def add(self, entry: TensorEntry, position: int, data: bytes) -> None:
        """Keep bytes of a tensor, as soon as those before them are kept."""
        digest = entry.sha256
        beyond = self._beyond.setdefault(digest, {})
        beyond[position] = data
        while (end := self._ends.get(digest, 0)) in beyond:
            data = beyond.pop(end)
            self._ends[digest] = end + len(data)
            await self._store.put_part(digest, end, data)

    async def drop(self, entries: Iterable[TensorEntry]) -> None:
        """Begin these anew."""
        for entry in entries:
            self._beyond.pop(entry.sha256, None)
            if self._ends.pop(entry.sha256, 0):
                await self._store.put_part(entry.sha256, 0, b"")

    def forget(self, entry: TensorEntry) -> None:
        """It is whole."""
        self._ends.pop(entry.sha256, None)
        self._beyond.pop(entry.sha256, None)

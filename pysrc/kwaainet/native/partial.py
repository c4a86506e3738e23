"""New files of one folder that appear together, whole, or not at all.

Rule of the file: under its own name a file is complete; until then it is ``NAME.part``, and goes when
what writes it fails or is cancelled.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ..errors import ConfigError


class WrittenFiles:
    """A context: files written in it get their names at its end, in the order they were begun.

    Raises ``ConfigError`` for a folder that cannot be written, and for names that are taken.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: list[str] = []

    def must_be_new(self, *names: str) -> None:
        """``ConfigError`` if one of these is there already."""
        for name in names:
            if (self._folder / name).exists():
                raise ConfigError(f"{self._folder} holds {name} already; give another folder")

    def open(self, name: str) -> BinaryIO:
        """A new file to write; the caller closes it."""
        self.must_be_new(name)
        self._names.append(name)
        return self._part(name).open("wb")

    def write(self, name: str, data: bytes) -> None:
        """A whole file."""
        with self.open(name) as file:
            file.write(data)

    def __enter__(self) -> WrittenFiles:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write {self._folder}: {error.strerror or error}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for name in self._names:
                    self._part(name).rename(self._folder / name)
        except OSError as failed:
            error = failed
        finally:
            for name in self._names:
                with suppress(OSError):
                    self._part(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ConfigError(f"cannot write {self._folder}: {error.strerror or error}") from None

    def _part(self, name: str) -> Path:
        return self._folder / f"{name}.part"

"""A step of the set-up: done once, and again when what it is made from changed.

A stamp per step holds the digest of its inputs; it is written last, so an interrupted step is
simply done again. Rule of the file: it knows no step in particular.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from places import ROOT, STAMPS, VENV

Inputs = Callable[[], Sequence[Path]]


class SetupError(Exception):
    """The set-up cannot go on; the text says why and what to do."""


@dataclass(frozen=True)
class Step:
    """``inputs`` are files and folders whose content decides; ``outputs`` must exist afterwards."""

    name: str
    what: str
    run: Callable[[], None]
    inputs: Inputs
    outputs: Sequence[Path]
    salt: str = ""
    slow: str = ""  # said before it starts, where a person would wonder

    def digest(self) -> str:
        """A digest of everything the outcome depends on."""
        total = hashlib.sha256(f"{self.name}\0{self.salt}\0".encode())
        for path in sorted(_files(self.inputs())):
            total.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
        return total.hexdigest()

    def is_done(self) -> bool:
        """Whether the stamp fits the inputs and every output is there."""
        stamp = STAMPS / self.name
        return (
            all(path.exists() for path in self.outputs)
            and stamp.is_file()
            and stamp.read_text().strip() == self.digest()
        )

    def ensure(self) -> None:
        """Do the step unless it is done. ``SetupError`` if it fails."""
        if self.is_done():
            return
        stamp = STAMPS / self.name
        stamp.unlink(missing_ok=True)
        say(f"{self.what}{f' ({self.slow})' if self.slow else ''} ...")
        start = time.monotonic()
        self.run()
        missing = [str(path.relative_to(ROOT)) for path in self.outputs if not path.exists()]
        if missing:
            raise SetupError(f"the step left no {', '.join(missing)}")
        STAMPS.mkdir(parents=True, exist_ok=True)
        stamp.write_text(self.digest() + "\n")
        say(f"    done in {time.monotonic() - start:.1f} s")


def say(text: str) -> None:
    """One line of the set-up's own, apart from what the programs it runs print."""
    print(f"[setup] {text}", flush=True)


def call(*command: str | Path, quiet: bool = False, folder: Path = ROOT, **environment: str) -> str:
    """Run a program in ``folder`` with .venv/bin first on the PATH; returns its output if ``quiet``.

    ``SetupError`` with the command, and what it printed, when it fails.
    """
    words = [str(word) for word in command]
    path = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    settings = {**os.environ, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment}
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if quiet else None,
            stderr=subprocess.STDOUT if quiet else None,
            text=True,
        )
    except OSError as error:
        raise SetupError(f"{words[0]} cannot be started: {error.strerror}") from None
    if done.returncode:
        if done.stdout:
            sys.stderr.write(done.stdout)
        raise SetupError(f"this command failed with exit code {done.returncode}: {' '.join(words)}")
    return done.stdout or ""


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Only one process at a time is in here per lock file; the others wait and say so."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another set-up that holds {lock}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (file for file in path.rglob("*") if file.is_file() and _counts(file))
        else:
            yield path


def _counts(file: Path) -> bool:
    return "__pycache__" not in file.parts and "dist" not in file.relative_to(ROOT).parts

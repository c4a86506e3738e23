"""Processes that are forked from an interpreter that has imported what they need, one of each kind a run.

``zygote.py`` is the other side. Who first needs one starts it for all workers of the run, see ``kept``.
Rule of the file: ``Forked`` is to its caller what a ``subprocess.Popen`` of the same script is, down to the
exit code and the exceptions.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

START_TIMEOUT = 240.0  # seconds; importing takes 5 on a quiet machine
PLACE = "KWAAINET_ZYGOTES"  # the environment's name for the folder of a run's zygotes
HELD = "held"  # a pipe in it, which each zygote has as its standard input


class Forked:
    """One such process."""

    def __init__(self, connection: socket.socket, command: Sequence[str]) -> None:
        self._connection, self._said, self._command = connection, b"", command
        self.returncode: int | None = None
        self.pid = int(self._line(START_TIMEOUT) or b"0")
        if not self.pid:
            raise ChildProcessError(f"the zygote has not forked {command}")

    def _line(self, timeout: float | None) -> bytes | None:
        """The next line of the zygote's, None if it has not come in time; empty if it is gone."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._said:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._connection], [], [], left)[0]:
                return None
            piece = self._connection.recv(64)
            if not piece:
                return b""
            self._said += piece
        line, _, self._said = self._said.partition(b"\n")
        return line

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal."""
        if self.returncode is None:
            line = self._line(timeout)
            if line is None:
                assert timeout is not None
                raise subprocess.TimeoutExpired(self._command, timeout)
            self.returncode = int(line) if line else -signal.SIGKILL
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        """The exit code of an ended process, else None."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@dataclass(frozen=True)
class Zygote:
    """What an interpreter has imported: ``modules``, found in ``folder`` or installed."""

    python: Path
    folder: Path
    modules: tuple[str, ...]


_STARTED: list[subprocess.Popen[bytes]] = []  # nobody awaits them: they outlive the worker that started them


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """A place for the zygotes of a run; they go when it does, however that comes about."""
    with tempfile.TemporaryDirectory(prefix="kwaainet-zygotes-") as folder:
        os.mkfifo(Path(folder, HELD))
        held = os.open(Path(folder, HELD), os.O_RDWR)  # as long as somebody could write, nobody reads an end
        os.environ[PLACE] = folder
        try:
            yield
        finally:
            del os.environ[PLACE]
            os.close(held)


@cache
def _zygote(zygote: Zygote) -> Path:
    """Its address, at which it listens once it has imported everything; started unless another worker has."""
    folder = Path(os.environ[PLACE])
    address = folder / zygote.modules[0]
    with (folder / f"{address.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not address.exists():
            _start(zygote, address)
    return address


def _start(zygote: Zygote, address: Path) -> None:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (address.parent / HELD).open("rb") as held:
        process = subprocess.Popen(
            [zygote.python, Path(__file__).with_name("zygote.py"), address, zygote.folder, *zygote.modules],
            stdin=held,
            stdout=subprocess.DEVNULL,
            env={**env, "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
    _STARTED.append(process)
    deadline = time.monotonic() + START_TIMEOUT
    while not address.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise ChildProcessError(f"{zygote.python} did not import {zygote.modules}")
        time.sleep(0.05)


def forked(
    argv: Sequence[str], zygote: Zygote, *, cwd: Path, env: Mapping[str, str], out: Path, err: Path
) -> Forked:
    """Run ``[script, *arguments]`` without importing again what the zygote has."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(_zygote(zygote)))
    request = {"argv": list(argv), "cwd": str(cwd), "env": dict(env), "out": str(out), "err": str(err)}
    connection.sendall(json.dumps(request).encode() + b"\n")
    return Forked(connection, argv)

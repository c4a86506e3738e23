"""The real processes under attack, and how to see that they took no harm."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from interop.running import KWAAINET, Running, relay, started
from robustness.bystander import Bystander
from robustness.small_model import CONFIG, PREFIX, write_model

UID = " ".join(f"{PREFIX}.{block}" for block in range(CONFIG.num_hidden_layers))
MEGA = 1 << 20
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
WAIT = 60.0  # seconds; the longest wait for what takes a moment on a quiet machine


def until(condition, what: str, timeout: float = WAIT):  # type: ignore[no-untyped-def]
    """Wait for a true value of ``condition()`` and return it."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about within {timeout:g} s"
        time.sleep(0.02)
    return value


@dataclass
class Watched:
    """A process, its memory and what it has logged since ``mark``."""

    running: Running
    marked_memory: int = 0
    marked_log: int = 0

    @property
    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.running.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    @property
    def growth(self) -> int:
        """Bytes more than at the mark."""
        return self.memory - self.marked_memory

    @property
    def log(self) -> str:
        """What was logged since the mark."""
        return self.running.err.read_text(errors="replace")[self.marked_log :]

    def mark(self) -> None:
        self.marked_memory, self.marked_log = self.memory, self.marked_log + len(self.log)

    def logs(self, words: str) -> str:
        """Wait for a line with these words; returns it."""
        until(lambda: words in self.log, f"a log line with {words!r}")
        return next(line for line in self.log.splitlines() if words in line)

    def shrinks(self, size: int) -> None:
        """Wait until it holds less than so much more than at the mark."""
        until(lambda: self.growth < size, f"a growth of less than {size} bytes")

    def is_unharmed(self) -> None:
        """It runs, and nothing in it failed in a way that nobody had thought of."""
        assert self.running.process.poll() is None, self.running.tail()
        assert "Traceback" not in self.log, self.log
        assert "ERROR" not in self.log, self.log


@dataclass
class Swarm:
    """A relay, a server that is reached only through it, a client between them."""

    tcp: str
    ws: str
    http: str
    relay_id: str
    server_id: str
    relay: Watched
    server: Watched
    bystander: Bystander
    model: Path
    folder: Path


@contextlib.contextmanager
def small_swarm(folder: Path) -> Iterator[Swarm]:
    """Everything up, the first round done."""
    model = write_model(folder / "small")
    with relay(folder) as ready:
        tcp, ws = (ready["maddrs"][index] for index in (0, 1))
        command = [KWAAINET, "serve", "-v", "--model", model, "--prefix", PREFIX, "--threads", "1"]
        command += ["--drain", "0"]
        command += ["--initial-peers", tcp, "--listen", f"{tcp}/p2p-circuit"]
        with started(command, folder, "serve", ONE_THREAD) as serving:
            server_id = serving.event("online")["peer_id"]
            processes = (ready["running"].process.pid, serving.process.pid)
            bystander = Bystander(tcp, server_id, UID, CONFIG.hidden_size, processes)
            bystander.goes_on(1)
            yield Swarm(
                tcp,
                ws,
                ready["http"],
                ready["peer_id"],
                server_id,
                Watched(ready["running"]),
                Watched(serving),
                bystander,
                model,
                folder,
            )
            bystander.leave()

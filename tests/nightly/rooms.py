"""Two processes in networks of their own, and between them a wire that delays, loses and can be cut.

The machine's kernel may have no netem, so each packet passes through this process: real TCP of two kernels'
stacks, with losses it has to mend itself. Rule of the file: chance comes from a seed.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from interop.running import ROOT, Running, started

ROOM = ROOT / "tests" / "nightly" / "room.py"
HERE, THERE = "10.77.0.1", "10.77.0.2"


class Wire(threading.Thread):
    """Carries packets both ways, each ``delay`` seconds late; ``loss`` of them never arrive."""

    def __init__(self, delay: float = 0.0, loss: float = 0.0, seed: int = 0) -> None:
        super().__init__(daemon=True)
        self.delay, self.loss, self.cut = delay, loss, False
        self.carried = self.lost = 0
        self._random = random.Random(seed)
        self._ends: list[int] = []
        self._queue: list[tuple[float, int, int, bytes]] = []
        self._over = threading.Event()

    def attach(self, end: int) -> None:
        """One of the two interfaces."""
        os.set_blocking(end, False)
        self._ends.append(end)
        if len(self._ends) == 2:
            self.start()

    def close(self) -> None:
        self._over.set()
        if self.is_alive():
            self.join()
        for end in self._ends:
            os.close(end)

    def run(self) -> None:
        while not self._over.is_set():
            wait = max(0.0, min(self._queue[0][0] - time.monotonic(), 0.05)) if self._queue else 0.05
            for end in select.select(self._ends, [], [], wait)[0]:
                self._take(end)
            while self._queue and self._queue[0][0] <= time.monotonic():
                _, _, target, packet = heapq.heappop(self._queue)
                with contextlib.suppress(OSError):  # that room is closed, or its interface full
                    os.write(target, packet)

    def _take(self, end: int) -> None:
        try:
            packet = os.read(end, 65536)
        except OSError:
            return
        if self.cut or self._random.random() < self.loss:
            self.lost += 1
            return
        self.carried += 1
        target = self._ends[1 - self._ends.index(end)]
        heapq.heappush(self._queue, (time.monotonic() + self.delay, self.carried, target, packet))


@contextlib.contextmanager
def wired(**options: float) -> Iterator[Wire]:
    wire = Wire(**options)  # type: ignore[arg-type]
    try:
        yield wire
    finally:
        wire.close()


@contextlib.contextmanager
def room(
    command: Sequence[str | Path],
    folder: Path,
    name: str,
    address: str,
    wire: Wire | None = None,
    disk: tuple[Path, int] | None = None,
) -> Iterator[Running]:
    """``command`` in a room at ``address``, at one end of ``wire`` if there is one."""
    ours, theirs = socket.socketpair()
    more = [] if disk is None else ["--disk", str(disk[0]), str(disk[1])]
    words = [sys.executable, ROOM, str(theirs.fileno()), address, *more, *command]
    with ours, started(words, folder, name, pass_fds=[theirs.fileno()]) as running:
        theirs.close()
        ours.settimeout(60)
        _, ends, _, _ = socket.recv_fds(ours, 1, 1)
        if wire is not None and ends:
            wire.attach(ends[0])
        yield running

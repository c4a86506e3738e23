"""A relay that is ended and started again: same identity, same ports, same state folder."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from browser.peers import PREFIX
from interop.running import KWAAINET, Running, free_port, started


class FixedRelay:
    """A relay that can be ended and started again with the same identity and ports."""

    def __init__(self, folder: Path, model: Path) -> None:
        self._folder, self._starts = folder, 0
        self.state = folder / "state"
        http, tcp, ws = (free_port() for _ in range(3))
        self.url = f"http://127.0.0.1:{http}/"
        self._command = [KWAAINET, "relay", "-v", "--http", f"127.0.0.1:{http}"]
        self._command += ["--listen", f"/ip4/127.0.0.1/tcp/{tcp}", "--listen", f"/ip4/127.0.0.1/tcp/{ws}/ws"]
        self._command += ["--state-dir", self.state, "--model", model, "--prefix", PREFIX]

    def started(self) -> AbstractContextManager[Running]:
        self._starts += 1
        return started(self._command, self._folder, f"relay-{self._starts}")

"""Figures for the guard of what only a tab has: bytes it loads, messages a step takes, wake-ups of Python.

Rule of the file: counts, in this process or in Node; no browser, no clock.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from interop.running import ROOT, Failed

from kwaainet.browser.event_loop import Queues
from kwaainet.browser.host import BrowserHost
from kwaainet.browser.messages import NetworkToNode, NodeToNetwork
from kwaainet.ports import Stream
from kwaainet.types import PeerId

ASSETS = ROOT / "web" / "dist" / "assets"
STATIC_IMPORT = re.compile(r'(?:from|import) ?"\./([\w-]+\.js)"')
KERNELS = re.compile(r"export const (\w+) =\s*'([A-Za-z0-9+/=]+)'")
STEPS = 16  # that arrive at once
PEER = PeerId(bytes.fromhex("002408011220") + bytes(32))
PROTOCOL = "Echo.stream"


def bundles() -> dict[str, float]:
    """Bytes that are loaded, gzipped as an origin would send them; of the kernels, the code itself."""
    if not ASSETS.is_dir():
        raise Failed(f"{ASSETS} is not there; run: make setup")
    page = _packed(ASSETS.parent / "index.html") + _with_imports("page.js")
    figures = {"bytes of the page before the click, gzipped": page}
    for worker in ("network", "node", "client"):
        figures[f"bytes of the {worker} worker, gzipped"] = _with_imports(f"{worker}.js")
    code = (ROOT / "web" / "bridge" / "kernel_code.ts").read_text()
    for name, text in KERNELS.findall(code):
        figures[f"bytes of the kernels, {name.lower()}"] = len(base64.b64decode(text))
    return figures


def _packed(path: Path) -> int:
    return len(gzip.compress(path.read_bytes(), mtime=0))


def _with_imports(name: str) -> int:
    """A script and what it cannot run without."""
    wanted, seen = [name], set[str]()
    while wanted:
        script = wanted.pop()
        if script not in seen:
            seen.add(script)
            wanted += STATIC_IMPORT.findall((ASSETS / script).read_text())
    return sum(_packed(ASSETS / script) for script in seen)


def wire() -> dict[str, float]:
    """Frames that yamux sends for a step and its answer: one each, and no window update."""
    command = [ROOT / ".venv/bin/node", Path(__file__).with_name("counted_wire.mjs")]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


class _Loop(asyncio.SelectorEventLoop):
    """Woken from outside as Pyodide's; it counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.wakes, self._due = 0, False
        self.queues = Queues(self, self)

    def wake(self) -> None:
        self.wakes, self._due = self.wakes + 1, True

    def wake_in(self, seconds: float) -> None:
        """Nothing here waits for a time."""

    def settle(self) -> None:
        while self._due:
            self._due = False
            self.queues.turn()


class _Port:
    """A network worker that only listens."""

    def __init__(self) -> None:
        self.posted: list[NodeToNetwork] = []
        self.receive: Callable[[NetworkToNode], None] = lambda message: None

    def post(self, message: NodeToNetwork) -> None:
        self.posted.append(message)

    def listen(self, receive: Callable[[NetworkToNode], None]) -> None:
        self.receive = receive


def wakes() -> dict[str, float]:
    """How often JavaScript wakes Python for steps that arrive together, and messages back for one."""
    loop = _Loop()
    asyncio._set_running_loop(loop)  # Pyodide's is always the running one
    try:
        return _woken(loop)
    finally:
        asyncio._set_running_loop(None)
        loop.close()


def _woken(loop: _Loop) -> dict[str, float]:
    port = _Port()
    host = BrowserHost(port)
    host.handle_stream(PROTOCOL, _echo)
    for number in range(STEPS):
        _deliver(port, {"type": "open", "id": 2 * number, "peer": str(PEER), "protocol": PROTOCOL})
    loop.settle()
    loop.wakes = 0
    port.posted.clear()
    for number in range(STEPS):
        _deliver(port, {"type": "data", "id": 2 * number, "body": bytes(2500)})
    loop.settle()
    figures = {
        f"wake-ups of Python for {STEPS} steps at once": loop.wakes,
        "messages from Python for one step": len(port.posted) / STEPS,
    }
    for number in range(STEPS):
        _deliver(port, {"type": "end", "id": 2 * number})
    loop.settle()
    return figures


def _deliver(port: _Port, message: dict[str, Any]) -> None:
    port.receive(cast(NetworkToNode, message))


async def _echo(stream: Stream) -> None:
    while (message := await stream.receive()) is not None:
        await stream.send(message)

"""The gap that a stock petals client sees when the tab in use behind the gateway is killed.

One unmodified client generates again and again through the relay's gateway; in every generation the
process that serves one of the two spans is ended by SIGKILL, and another takes its place before the
next. The gap is the longest of the token intervals that end within ``WINDOW`` seconds after the kill.
``gateway`` kills native stand-ins (``native_tab.py``), which start in a second, ``gateway_tabs`` real tabs.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from interop.cases import Case
from interop.running import (
    OFFLINE,
    PEERS,
    PEERS_PYTHON,
    POLL,
    Failed,
    Running,
    native_tab,
    relay,
    started,
    status,
    tab,
)

from .report import Result, kills_row

SPANS = ("0:3", "3:5")
KILLS_A_ROUND = 10
NEW_TOKENS, KILLED_AT = 48, 16
WINDOW = 5.0  # seconds
PATIENCE = 120.0

Server = tuple[Running, dict[str, Any]]  # and its online event
Start = Callable[[str, str], AbstractContextManager[Server]]  # (blocks, name) -> a server


def measure(folder: Path, rounds: int) -> Result:
    """Native stand-ins for tabs. Needs the real peers."""
    return _measure(folder, "native stand-ins", _stand_ins, KILLS_A_ROUND * rounds)


def measure_tabs(folder: Path, rounds: int) -> Result:
    """Needs the real peers and the headless Chromium."""
    return _measure(folder, "tabs, wasm", _tabs, KILLS_A_ROUND * rounds)


def _measure(
    folder: Path, victims: str, starter: Callable[[Path, dict[str, Any], Case], Start], kills: int
) -> Result:
    case = _make_model(folder)
    with relay(folder, "--model", case.folder, "--prefix", case.prefix, "--expose", "gateway") as origin:
        outcome = _Kills(folder, origin, case, starter(folder, origin, case)).run(kills)
    row = kills_row(
        "stock client, gateway", f"{kills} kills ({victims})", outcome["gaps"], outcome["usual"],
        outcome["wrong"], outcome["generations"], len(outcome["errors"]),
    )  # fmt: skip
    return Result([row], outcome)


def _make_model(folder: Path) -> Case:
    model = folder / "odd"
    with started([PEERS_PYTHON, PEERS / "make_llama.py", model], folder, "make", OFFLINE) as running:
        if running.process.wait(PATIENCE):
            raise Failed(running.tail())
    return Case(model, model, "odd-llama", 5)


def _stand_ins(folder: Path, origin: dict[str, Any], case: Case) -> Start:
    return lambda blocks, name: native_tab(folder, origin, case, blocks, name)


def _tabs(folder: Path, origin: dict[str, Any], case: Case) -> Start:
    flags = ("--backend", "wasm", "--blocks")
    return lambda blocks, name: tab(folder, origin["http"], *flags, blocks, name=name)


@dataclass
class _Kills:
    """One client, and a killer that replaces what it kills."""

    folder: Path
    origin: dict[str, Any]
    case: Case
    start: Start
    at: list[tuple[int, float]] = field(default_factory=list)  # (generation, unix time)

    def run(self, kills: int) -> dict[str, Any]:
        until, spec, result = (self.folder / name for name in ("enough", "spec", "result"))
        asked = {"generations": 100 * kills, "prompt_tokens": 6, "new_tokens": NEW_TOKENS}
        spec.write_text(json.dumps(self.case.spec(self.origin["tcp"], until=str(until), **asked)))
        command = [PEERS_PYTHON, PEERS / "petals_streamer.py", spec, result]
        names = (f"server-{number}" for number in itertools.count())
        with ExitStack() as stack:
            servers = {
                blocks: [stack.enter_context(self.start(blocks, next(names))) for _ in range(2)]
                for blocks in SPANS
            }
            client = stack.enter_context(started(command, self.folder, "client", OFFLINE))
            for number in range(kills):
                blocks = SPANS[number % len(SPANS)]
                self._kill(client, servers[blocks])
                servers[blocks].append(stack.enter_context(self.start(blocks, next(names))))
            until.touch()
            if client.process.wait(PATIENCE):
                raise Failed(client.tail())
        return self._outcome(json.loads(result.read_text())["generations"])

    def _kill(self, client: Running, servers: list[Server]) -> None:
        """Amid the next generation."""
        now, _ = _progress(client)
        deadline = time.monotonic() + PATIENCE
        while not (now < (progress := _progress(client))[0] and KILLED_AT <= progress[1] < NEW_TOKENS - 8):
            if time.monotonic() > deadline or client.process.poll() is not None:
                raise Failed(f"the client got no further\n{client.tail()}")
            time.sleep(POLL / 10)
        in_use = status(self.origin)["gateway"]["in_use"]
        victim = next(server for server in servers if server[1]["peer_id"] in in_use)
        servers.remove(victim)
        self.at.append((progress[0], time.time()))
        for process_id in (*_children(victim[0].process.pid), victim[0].process.pid):
            os.killpg(process_id, signal.SIGKILL)

    def _outcome(self, generations: Sequence[dict[str, Any]]) -> dict[str, Any]:
        gaps, usual = [], []
        for generation, killed in self.at:
            times = generations[generation]["times"]
            intervals = [(end, end - begin) for begin, end in itertools.pairwise(times)]
            gaps.append(
                max((gap for end, gap in intervals if killed < end < killed + WINDOW), default=WINDOW)
            )
            usual += [gap for end, gap in intervals if end < killed]
        return {
            "gaps": gaps,
            "usual": median(usual),
            "generations": len(generations),
            "wrong": sum(not one["equal"] for one in generations),
            "errors": [one["error"] for one in generations if one["error"]],
        }


def _progress(client: Running) -> tuple[int, int]:
    lines = [line for line in client.lines()[-1:] if line.get("event") == "token"]
    return (lines[0]["generation"], lines[0]["index"]) if lines else (-1, 0)


def _children(process_id: int) -> list[int]:
    """A tab's browser leads a process group of its own."""
    path = Path(f"/proc/{process_id}/task/{process_id}/children")
    return [int(child) for child in path.read_text().split()]

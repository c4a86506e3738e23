"""The gap that a stock petals client sees when the tab in use behind the gateway is killed.

One unmodified client generates again and again through the relay's gateway; in every generation the
process that serves one of the two spans is ended by SIGKILL, and another takes its place before the
next. The gap is the longest of the token intervals that end within ``WINDOW`` seconds after the kill.
Most kills hit native stand-ins (``native_tab.py``), which start in a second; a few hit real tabs.
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
from statistics import median, quantiles
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

from .report import Result, Row

SPANS = ("0:3", "3:5")
KILLS_A_ROUND = 10
NEW_TOKENS, KILLED_AT = 48, 16
WINDOW = 5.0  # seconds
PATIENCE = 120.0

Server = tuple[Running, dict[str, Any]]  # and its online event
Start = Callable[[str, str], AbstractContextManager[Server]]  # (blocks, name) -> a server


def measure(folder: Path, rounds: int) -> Result:
    """Needs the real peers and the headless Chromium."""
    case = _make_model(folder)
    figures: dict[str, Any] = {}
    rows = []
    for name, kills in (("native stand-ins", KILLS_A_ROUND * rounds), ("tabs, wasm", rounds)):
        place = folder / name.split()[0].strip(",")
        place.mkdir()
        with relay(place, "--model", case.folder, "--prefix", case.prefix, "--expose", "gateway") as origin:
            start = _tabs(place, origin) if name.startswith("tabs") else _stand_ins(place, origin, case)
            outcome = _Kills(place, origin, case, start).run(kills)
        figures[name] = outcome
        rows.append(_row(name, outcome))
    return Result(rows, figures)


def _make_model(folder: Path) -> Case:
    model = folder / "odd"
    with started([PEERS_PYTHON, PEERS / "make_llama.py", model], folder, "make", OFFLINE) as running:
        if running.process.wait(PATIENCE):
            raise Failed(running.tail())
    return Case(model, model, "odd-llama", 5)


def _stand_ins(folder: Path, origin: dict[str, Any], case: Case) -> Start:
    return lambda blocks, name: native_tab(folder, origin, case, blocks, name)


def _tabs(folder: Path, origin: dict[str, Any]) -> Start:
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


def _row(name: str, outcome: dict[str, Any]) -> Row:
    gaps = outcome["gaps"]
    p95 = quantiles(gaps, n=20, method="inclusive")[-1] if len(gaps) > 1 else gaps[0]
    wrong = f"{outcome['wrong']} of {outcome['generations']} generations wrong"
    return Row(
        f"stock client, gateway, {len(gaps)} kills ({name}): gap p50 / p95 / longest",
        f"{median(gaps):.2f} / {p95:.2f} / {max(gaps):.2f} s, {wrong}",
        f"{outcome['usual']:.3f} s between tokens without a kill",
        goal="p95 < 1 s, 0 wrong",
    )

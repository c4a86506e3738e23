"""The gap that a stock petals client sees when the tab in use behind the gateway is killed.

One unmodified client generates again and again through the relay's gateway; in a generation the process that
serves one of the two spans is ended by SIGKILL, and another starts in its place. The gap is the longest of
the token intervals that end within ``WINDOW`` seconds after the kill. ``gateway`` kills native stand-ins
(``native_tab.py``), which start in a second, ``gateway_tabs`` real tabs.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
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

from .holders import LEFT, Holders, Start
from .journal import Journal
from .report import Result, kills_row

SPANS = ("0:3", "3:5")
KILLS_A_ROUND = 10
NEW_TOKENS, KILLED_AT = 48, 16
WINDOW = 5.0  # seconds
PATIENCE = 120.0


def measure(folder: Path, rounds: int) -> Result:
    """Native stand-ins for tabs. Needs the real peers."""
    return _measure(folder, Journal("gateway"), "native stand-ins", _stand_ins, KILLS_A_ROUND * rounds)


def measure_tabs(folder: Path, rounds: int) -> Result:
    """Needs the real peers and the headless Chromium."""
    return _measure(folder, Journal("gateway_tabs"), "tabs, wasm", _tabs, KILLS_A_ROUND * rounds)


def _measure(
    folder: Path,
    journal: Journal,
    victims: str,
    starter: Callable[[Path, dict[str, Any], Case], Start],
    kills: int,
) -> Result:
    if len(journal.of("kill")) < kills:
        case = _make_model(folder)
        exposed = ("--prefix", case.prefix, "--expose", "gateway")
        with (
            relay(folder, "--model", case.folder, *exposed) as origin,
            Holders(starter(folder, origin, case), SPANS) as holders,
        ):
            _Kills(folder, origin, case, holders, journal).run(kills)
    found, undisturbed = journal.measured("kill"), journal.of("generation")
    everything = found + undisturbed
    row = kills_row(
        "stock client, gateway", f"{len(found)} kills ({victims})",
        [one["gap"] for one in found], median(one["usual"] for one in found),
        sum(not one["equal"] for one in everything), len(everything),
        sum(bool(one["error"]) for one in everything),
    )  # fmt: skip
    return Result([row], {"kills": found, "undisturbed": len(undisturbed)})


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


class _Kills:
    """One client, and a killer that looks on while it generates."""

    def __init__(
        self, folder: Path, origin: dict[str, Any], case: Case, holders: Holders, journal: Journal
    ) -> None:
        self._folder, self._origin, self._case = folder, origin, case
        self._holders, self._journal = holders, journal
        self._killed: dict[str, Any] = {}  # in the generation under way

    def run(self, kills: int) -> None:
        """Until there are so many kills."""
        until, pause, spec, result = (self._folder / name for name in ("enough", "pause", "spec", "result"))
        asked = {"generations": 100 * kills, "prompt_tokens": 6, "new_tokens": NEW_TOKENS}
        files = {"until": str(until), "pause": str(pause)}
        spec.write_text(json.dumps(self._case.spec(self._origin["tcp"], **files, **asked)))
        command = [PEERS_PYTHON, PEERS / "petals_streamer.py", spec, result]
        self._wait_for_all()
        with started(command, self._folder, "client", OFFLINE) as client:
            for event in self._events(client):
                if event["event"] == "generation":
                    pause.touch()
                    self._note(event)
                    if len(self._journal.of("kill")) >= kills:
                        until.touch()
                        break
                    self._wait_for_all()
                    pause.unlink()
                elif not self._killed and KILLED_AT <= event["index"] < NEW_TOKENS - 8:
                    self._kill(SPANS[len(self._journal.of("kill")) % len(SPANS)])
            pause.unlink()
            if client.process.wait(PATIENCE):
                raise Failed(client.tail())

    def _wait_for_all(self) -> None:
        while not self._holders.enough:
            time.sleep(POLL)

    def _events(self, client: Running) -> Iterator[dict[str, Any]]:
        """What the client prints, as it comes; ``Failed`` if nothing more does."""
        deadline = time.monotonic() + PATIENCE
        with client.out.open() as out:
            rest = ""
            while time.monotonic() < deadline:
                rest += out.read()
                lines = rest.split("\n")
                rest = lines.pop()
                events = [json.loads(line) for line in lines]
                # of tokens only the last is news: a generation must not be killed in when it is over
                yield from (one for one in events[:-1] if one["event"] == "generation")
                yield from events[-1:]
                if events:
                    deadline = time.monotonic() + PATIENCE
                elif client.process.poll() is not None:
                    break
                time.sleep(POLL / 10)
        raise Failed(f"the client got no further\n{client.tail()}")

    def _kill(self, blocks: str) -> None:
        """A server of this part that is in use, if enough others stand by."""
        there = self._holders.peers(blocks)
        in_use = there & set(status(self._origin)["gateway"]["in_use"])
        if len(there) >= LEFT and in_use:
            self._killed = {"blocks": blocks, "at": time.time()}
            self._holders.kill(in_use.pop())

    def _note(self, generation: dict[str, Any]) -> None:
        """One that is over, with a kill in it or without."""
        times, killed = generation["times"], self._killed
        fields = {"equal": generation["equal"], "error": generation["error"]}
        self._killed = {}
        if not killed:
            self._journal.note("generation", **fields)
            return
        intervals = [(end, end - begin) for begin, end in itertools.pairwise(times)]
        after = (gap for end, gap in intervals if killed["at"] < end < killed["at"] + WINDOW)
        gap = WINDOW if generation["error"] else max(after, default=WINDOW)
        usual = median(gap for end, gap in intervals if end < killed["at"])
        self._journal.note("kill", **fields, gap=gap, usual=usual, blocks=killed["blocks"])

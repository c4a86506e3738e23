"""A relay under churn for hours: ``PYTHONPATH=tests python -m nightly.soak --seconds 7200``.

Several hundred guests (``guests.py``) come, call each other and go; the relay is a process of its own, and
what it takes of memory, files and tasks is sampled and must not grow. Rule of the file: the warm-up ends
when every table that lasts has been full once, the longest those of 4096 peers, which passers-by fill;
nothing of it counts. How it stands is told every few minutes.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from interop.running import ROOT, Failed, Running, relay, started
from nightly.slopes import STRETCHES, Slope, slope

GUESTS = ROOT / "tests" / "nightly" / "guests.py"
PROCESSES = 3
NEWCOMERS = 5000  # who pass by before anything counts: the tables of peers have 4096 places
PASSING = (12, 0.3, 0.0, 1.0)  # of them at a time, seconds each stays, between its calls, share of new ones
SETTLE = 150.0  # seconds until what passers-by announced has run out and been swept
SAMPLE_EVERY = 1.0
PATIENCE = 240.0  # seconds more, if guests were not answered meanwhile
TELL_EVERY = 300.0


@dataclass
class Report:
    """What came of it: samples by figure, and what the guests saw."""

    seconds: list[float] = field(default_factory=list)
    samples: dict[str, list[float]] = field(
        default_factory=lambda: {"rss_kb": [], "objects": [], "fds": [], "tasks": []}
    )
    seen: Counter[str] = field(default_factory=Counter)

    def slopes(self) -> dict[str, Slope]:
        """By figure."""
        return {name: slope(self.seconds, values) for name, values in self.samples.items()}

    def lacks_some(self, late: float) -> bool:
        """Whether there is too little to judge by yet, ``late`` seconds after there should be enough."""
        unheard = self.seen["answered"] == 0 and late < PATIENCE  # the guests may have stood still
        return len(self.seconds) < STRETCHES or unheard

    @property
    def failures(self) -> dict[str, int]:
        """What guests met that churn does not explain."""
        return {word: count for word, count in self.seen.items() if word.startswith(("failed", "wrong"))}

    def __str__(self) -> str:
        lines = [f"{name}: {found}" for name, found in self.slopes().items()]
        for name, values in self.samples.items():
            parts = np.array_split(np.array(values), STRETCHES)
            lines.append(
                f"{name}, means of {STRETCHES} stretches: {[round(float(one.mean())) for one in parts]}"
            )
        return "\n".join([*lines, f"{len(self.seconds)} samples; guests: {dict(self.seen)}"])


def soak(
    folder: Path,
    *,
    guests: int,
    seconds: float,
    newcomers: int,
    settle: float,
    seed: int,
    mean_life: float,
    ask_every: float = 30.0,
    sample_every: float = SAMPLE_EVERY,
) -> Report:
    """Run it; ``seconds`` are those sampled, after ``newcomers`` have passed by and all has settled."""
    report = Report()
    with ExitStack() as stack:
        ready = stack.enter_context(relay(folder, "--state-dir", folder / "state", "--log-level", "warning"))
        address = next(one for one in ready["maddrs"] if "/ws/" in one)
        _put_first(ready["running"])

        def party(name: str, *what: float) -> Running:
            command = [sys.executable, GUESTS, address, *map(str, what)]
            running = stack.enter_context(started(command, folder, name))
            _put_first(running)
            return running

        parties = [
            party(f"guests-{number}", count, seed + number, mean_life, ask_every)
            for number, count in enumerate(_shares(guests))
        ]
        _await_coming(parties, guests)
        passing = party("passers-by", PASSING[0], seed + PROCESSES, *PASSING[1:])
        _await_coming([passing], newcomers)
        passing.stop()
        _sleep(settle, ready["running"], parties)
        before = _seen(parties)
        start = told = time.monotonic()
        while (at := time.monotonic() - start) < seconds or report.lacks_some(at - seconds):
            report.seconds.append(at)
            for name, value in _figures(ready["running"].process.pid, ready["http"]).items():
                report.samples[name].append(value)
            _sleep(sample_every, ready["running"], parties)
            report.seen = _seen(parties) - before
            if time.monotonic() > told + TELL_EVERY and len(report.seconds) >= STRETCHES:
                told = time.monotonic()
                _tell(f"after {at:.0f} of {seconds:.0f} s, load {os.getloadavg()[0]:.1f}\n{report}")
    return report


def _put_first(running: Running) -> None:
    """Before neighbours, where the system lets us: on a busy machine calls fail that wait for a turn. Linux
    groups processes by session, so that niceness alone counts within a session only."""
    with suppress(OSError):
        Path(f"/proc/{running.process.pid}/autogroup").write_text("-10")


def _shares(guests: int) -> list[int]:
    return [guests // PROCESSES + (number < guests % PROCESSES) for number in range(PROCESSES)]


def _await_coming(parties: Sequence[Running], wanted: int) -> None:
    for party in parties:
        party.event("guests")
    start = told = time.monotonic()
    while (came := _seen(parties)["came"]) < wanted:
        if time.monotonic() > start + 60 + wanted * 0.5:
            raise Failed(f"only {_seen(parties)} of {wanted}\n{parties[0].tail()}")
        if time.monotonic() > told + TELL_EVERY / 10:
            told = time.monotonic()
            _tell(f"{came} of {wanted} have come")
        time.sleep(0.5)


def _tell(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)


def _sleep(seconds: float, *running: Running | Sequence[Running]) -> None:
    time.sleep(seconds)
    for one in running:
        for process in [one] if isinstance(one, Running) else one:
            if process.process.poll() is not None:
                raise Failed(f"ended with {process.process.returncode}\n{process.tail()}")


def _seen(parties: Sequence[Running]) -> Counter[str]:
    total: Counter[str] = Counter()
    for party in parties:
        last = (party.lines() or [{}])[-1]
        total.update({word: count for word, count in last.items() if word not in ("event", "present")})
    return total


def _figures(pid: int, http: str) -> dict[str, float]:
    status = Path(f"/proc/{pid}/status").read_text()
    rss = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    with urllib.request.urlopen(f"{http}metrics", timeout=30) as answer:
        figures = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[:1] != "#")
    return {
        "rss_kb": float(rss),
        "objects": float(figures["kwaainet_objects"]),
        "fds": float(len(list(Path(f"/proc/{pid}/fd").iterdir()))),
        "tasks": float(figures["kwaainet_tasks"]),
    }


def main() -> int:
    """From the command line; the exit code is 1 if a figure grew or a call failed."""
    parser = argparse.ArgumentParser(prog="nightly.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=7200.0)
    parser.add_argument("--newcomers", type=int, default=NEWCOMERS, help="who pass by before anything counts")
    parser.add_argument("--settle", type=float, default=SETTLE)
    parser.add_argument("--guests", type=int, default=600)
    parser.add_argument("--life", type=float, default=120.0, help="seconds a guest stays, on average")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and what was started ends, too
    with tempfile.TemporaryDirectory(prefix="kwaainet-soak-") as folder:
        report = soak(
            Path(folder),
            guests=asked.guests,
            seconds=asked.seconds,
            newcomers=asked.newcomers,
            settle=asked.settle,
            seed=asked.seed,
            mean_life=asked.life,
        )
    print(report)
    return 0 if not report.failures and all(one.is_zero for one in report.slopes().values()) else 1


if __name__ == "__main__":
    sys.exit(main())

"""A relay under churn for hours: ``PYTHONPATH=tests python -m nightly.soak --seconds 7200``.

Several hundred guests (``guests.py``) come, call each other and go; the relay is a process of its own, and
what it takes of memory, files and tasks is sampled and must not grow. Rule of the file: the warm-up ends
when every table has been full once, the longest that of 4096 peers' addresses (half of those who come are
new); nothing of it counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from interop.running import ROOT, Failed, Running, relay, started
from nightly.slopes import STRETCHES, Slope, slope

GUESTS = ROOT / "tests" / "nightly" / "guests.py"
PROCESSES = 3
SAMPLE_EVERY = 1.0


@dataclass
class Report:
    """What came of it: samples by figure, and what the guests saw."""

    seconds: list[float] = field(default_factory=list)
    samples: dict[str, list[float]] = field(default_factory=lambda: {"rss_kb": [], "fds": [], "tasks": []})
    seen: Counter[str] = field(default_factory=Counter)

    def slopes(self) -> dict[str, Slope]:
        """By figure."""
        return {name: slope(self.seconds, values) for name, values in self.samples.items()}

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
    warm_up: float,
    seed: int,
    mean_life: float,
    ask_every: float = 30.0,
) -> Report:
    """Run it; ``seconds`` are those sampled, after the warm-up."""
    report = Report()
    with ExitStack() as stack:
        ready = stack.enter_context(relay(folder, "--state-dir", folder / "state", "--log-level", "warning"))
        address = next(one for one in ready["maddrs"] if "/ws/" in one)
        parties = [
            stack.enter_context(
                started(
                    [
                        sys.executable,
                        GUESTS,
                        address,
                        *map(str, (count, seed + number, mean_life, ask_every)),
                    ],
                    folder,
                    f"guests-{number}",
                )
            )
            for number, count in enumerate(_shares(guests))
        ]
        _await_guests(parties, guests)
        _sleep(warm_up, ready["running"], parties)
        before = _seen(parties)
        start = time.monotonic()
        while (at := time.monotonic() - start) < seconds:
            report.seconds.append(at)
            for name, value in _figures(ready["running"].process.pid, ready["http"]).items():
                report.samples[name].append(value)
            _sleep(SAMPLE_EVERY, ready["running"], parties)
        report.seen = _seen(parties) - before
    return report


def _shares(guests: int) -> list[int]:
    return [guests // PROCESSES + (number < guests % PROCESSES) for number in range(PROCESSES)]


def _await_guests(parties: Sequence[Running], guests: int) -> None:
    for party in parties:
        party.event("guests")
    deadline = time.monotonic() + 60 + guests * 0.5
    while _seen(parties)["came"] < guests:
        if time.monotonic() > deadline:
            raise Failed(f"only {_seen(parties)} of {guests}\n{parties[0].tail()}")
        time.sleep(0.5)


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
        "fds": float(len(list(Path(f"/proc/{pid}/fd").iterdir()))),
        "tasks": float(figures["kwaainet_tasks"]),
    }


def main() -> int:
    """From the command line; the exit code is 1 if a figure grew or a call failed."""
    parser = argparse.ArgumentParser(prog="nightly.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=7200.0)
    parser.add_argument("--warm-up", type=float, default=3000.0)
    parser.add_argument("--guests", type=int, default=600)
    parser.add_argument("--life", type=float, default=120.0, help="seconds a guest stays, on average")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kwaainet-soak-") as folder:
        report = soak(
            Path(folder),
            guests=asked.guests,
            seconds=asked.seconds,
            warm_up=asked.warm_up,
            seed=asked.seed,
            mean_life=asked.life,
        )
    print(report)
    return 0 if not report.failures and all(one.is_zero for one in report.slopes().values()) else 1


if __name__ == "__main__":
    sys.exit(main())

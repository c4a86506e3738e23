"""How a relay bears load: ten thousand idle connections, and steps beside circuits that take all they get.

Load is of ``circuit_load.py``, in processes of its own: one for the bytes, one for the steps that are timed.
On few cores all of them share the processor with the relay, which the steps feel as well: beside the steps'
times the table says how busy the relay was. Rule of the file: the relay is what ``kwaainet relay`` starts.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from interop.running import Failed, relay

from .processes import cpu_seconds, resident_kilobytes
from .report import Result, Row

SCRIPT = Path(__file__).with_name("circuit_load.py")
IDLE = 10_000  # connections
WARM_UP = 50  # connections before any is counted
SECONDS = 4.0  # of each measurement under load
BUSY = 0.7  # of one core, which the relay's bytes are to take
SETTLE = 1.0  # seconds until identify is through


class Generator:
    """A process of ``circuit_load.py``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answer()

    def ask(self, **command: Any) -> dict[str, Any]:
        """One command's answer."""
        assert self._process.stdin is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"the load generator ended with {self._process.wait()}; see its complaint above")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise Failed(f"the load generator's circuit ended: {answer['failed']}")
        return answer


@contextlib.contextmanager
def generator(address: str) -> Iterator[Generator]:
    """One more load generator for the relay at ``address``."""
    command = [sys.executable, SCRIPT, address]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Generator(process)
    finally:
        process.kill()
        process.wait()


def measure_idle(folder: Path, rounds: int) -> Result:
    """``IDLE`` connections with slots on one relay, once: what each took, and what all hold."""
    with relay(folder) as ready, generator(_address(ready)) as load:
        pid = ready["running"].process.pid
        load.ask(do="idle", peers=WARM_UP)
        memory, processor = resident_kilobytes(pid), cpu_seconds(pid)
        load.ask(do="idle", peers=IDLE)
        time.sleep(SETTLE)
        spent, held = cpu_seconds(pid) - processor, resident_kilobytes(pid)
        steps = _steps(load, load.ask(do="sink")["peer"])
    figures = {
        "megabytes": held / 1024,
        "kilobytes": (held - memory) / IDLE,
        "seconds": spent,
        "steps": steps,
    }
    return Result(list(_idle_rows(figures)), figures)


def _idle_rows(figures: dict[str, Any]) -> Iterator[Row]:
    yield Row(
        f"relay: memory with {IDLE:,} idle connections; of one",
        f"{figures['megabytes']:.0f} MB; {figures['kilobytes']:.1f} kB",
        goal="< 500 MB; ≤ 30 kB",
    )
    yield Row(
        f"relay: processor time to set up each of the {IDLE:,}, peers as lean as the relay",
        f"{1000 * figures['seconds'] / IDLE:.1f} ms",
        goal="≤ 3 ms",
    )
    middle, late = _spread(figures["steps"])
    yield Row(f"· echo of a step beside them, p50 and p99 ({IDLE:,})", f"{middle:.1f}, {late:.1f} ms")


def measure(folder: Path, rounds: int) -> Result:
    """Steps alone, steps at ``BUSY`` of a core, and two circuits that want everything, in turns."""
    figures: dict[str, list[Any]] = {
        name: [] for name in ("alone", "busy", "share", "rate", "greedy", "beside")
    }
    with (
        relay(folder) as ready,
        generator(_address(ready)) as bulk,
        generator(_address(ready)) as more,
        generator(_address(ready)) as sinks,
        generator(_address(ready)) as timed,
    ):
        pid = ready["running"].process.pid
        peer, calm = (sinks.ask(do="sink")["peer"] for _ in range(2))
        bulk.ask(do="flood", peer=peer, seconds=1.0)
        for _ in range(rounds):
            figures["alone"] += _steps(timed, calm)
            with ThreadPoolExecutor() as pool:
                began, before = time.perf_counter(), cpu_seconds(pid)
                carried = bulk.ask(do="flood", peer=peer, seconds=SECONDS)["bytes"]
                figures["rate"].append(carried / (cpu_seconds(pid) - before))
                rate = BUSY * median(figures["rate"])
                began, before = time.perf_counter(), cpu_seconds(pid)
                flood = pool.submit(bulk.ask, do="flood", peer=peer, seconds=SECONDS, rate=rate)
                figures["busy"] += _steps(timed, calm)
                flood.result()
                figures["share"].append((cpu_seconds(pid) - before) / (time.perf_counter() - began))
                both = [pool.submit(one.ask, do="flood", peer=peer, seconds=SECONDS) for one in (bulk, more)]
                figures["beside"] += _steps(timed, peer)
                figures["greedy"].append([one.result()["bytes"] for one in both])
    return Result(list(_rows(figures)), figures)


def _rows(figures: dict[str, list[Any]]) -> Iterator[Row]:
    (middle, late), (_, busy), (_, beside) = (_spread(figures[name]) for name in ("alone", "busy", "beside"))
    yield Row(
        "relay, ws circuits of plain bytes, one way: MB per core-second",
        f"{median(figures['rate']) / 1e6:.0f}",
        goal="≥ 280",
    )
    yield Row(
        f"· a step's echo beside them at {median(figures['share']):.0%} of a core, p99",
        f"{busy:.1f} ms",
        f"{late:.1f} ms alone (p50 {middle:.1f})",
        goal="≤ 5 ms more",
    )
    more = median(max(pair) / sum(pair) for pair in figures["greedy"])
    yield Row(
        "· of two circuits to one peer that want everything, the greedier gets",
        f"{more:.0%}",
        f"a step's echo to the same peer takes {beside:.1f} ms p99",
    )


def _steps(generator: Generator, peer: str) -> list[float]:
    times: list[float] = generator.ask(do="echo", peer=peer, seconds=SECONDS)["milliseconds"]
    return times


def _spread(times: list[float]) -> tuple[float, float]:
    """Median and 99th percentile."""
    cuts = quantiles(times, n=100, method="inclusive")
    return cuts[49], cuts[98]


def _address(ready: dict[str, Any]) -> str:
    return str(next(address for address in ready["maddrs"] if "/ws/" in address))

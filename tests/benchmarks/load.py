"""How a relay bears load: ten thousand idle connections, and steps beside circuits that take all they get.

Load is of ``circuit_load.py``, in processes of its own: for the bytes, for the steps that are timed, and for
the peers that echo them. The relay has a core for itself and all others the rest (``processes.set_apart``),
so that what is added to a step's time is the relay's doing. Rule of the file: the relay is what ``kwaainet
relay`` starts, and ``BUSY`` is of what one core of it carries, as just measured. A step alone and one
beside a load are timed within seconds of each other, in turns, and told apart pair by pair: what holds the
machine up for a moment spoils a pair, not the median.
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

from interop.running import KWAAINET, Failed, relay, started

from kwaainet.native.open_files import OTHER_FILES

from .processes import cpu_seconds, resident_kilobytes, set_apart
from .report import Result, Row

SCRIPT = Path(__file__).with_name("circuit_load.py")
IDLE = 10_000  # connections
GENERATORS = 4  # processes that hold them: each may open only so many files
WARM_UP = 50  # connections before any is counted
SECONDS = 4.0  # of each measurement under load
BUSY = 0.7  # of one core, which the relay's bytes are to take
TRIAL = 1.0  # seconds to find the rate that takes ``BUSY``
PAIRS = 4  # of each round: steps alone, steps beside a load
PAIR = 1.5  # seconds of each half: 130 steps, of which the 99th percentile is the second worst
SETTLE = 1.0  # seconds until identify is through
MODEST = 10e6  # bytes a second of a circuit that wants no more, beside one that wants everything
ROOM = 300  # connections of a full relay
FILES = (ROOM + OTHER_FILES) * 4 // 3  # that it may open: a quarter is for visitors of its page
KNOCKS = 1000  # connections that are tried beyond that


class Generator:
    """A process of ``circuit_load.py``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answer()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

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
    with contextlib.ExitStack() as stack:
        ready = stack.enter_context(relay(folder))
        loads = [stack.enter_context(generator(_address(ready))) for _ in range(GENERATORS)]
        timed, echoing = (stack.enter_context(generator(_address(ready))) for _ in range(2))
        pid = ready["running"].process.pid
        set_apart(pid, [], [timed.pid, echoing.pid])
        loads[0].ask(do="idle", peers=WARM_UP)
        memory, processor = resident_kilobytes(pid), cpu_seconds(pid)
        with ThreadPoolExecutor() as pool:
            asked = [pool.submit(one.ask, do="idle", peers=IDLE // GENERATORS) for one in loads]
            wall = max(one.result()["seconds"] for one in asked)
        time.sleep(SETTLE)
        spent, held = cpu_seconds(pid) - processor, resident_kilobytes(pid)
        steps = _steps(timed, echoing.ask(do="sink")["peer"])
    figures = {
        "megabytes": held / 1024,
        "kilobytes": (held - memory) / IDLE,
        "seconds": spent,
        "wall": wall,
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
        f"relay: processor time to set up each of the {IDLE:,}, slot included",
        f"{1000 * figures['seconds'] / IDLE:.1f} ms",
        goal="≤ 3 ms",
    )
    middle, late = _spread(figures["steps"])
    yield Row(f"· echo of a step beside them, p50 and p99 ({IDLE:,})", f"{middle:.1f}, {late:.1f} ms")


def measure(folder: Path, rounds: int) -> Result:
    """Steps alone, steps at ``BUSY`` of a core, circuits that want everything, and a relay that is full."""
    names = ("alone", "busy", "share", "rate", "greedy", "beside", "modest")
    figures: dict[str, list[Any]] = {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        ready = stack.enter_context(relay(folder))
        bulk, more, sinks, timed, echoing = (
            stack.enter_context(generator(_address(ready))) for _ in range(5)
        )
        pid = ready["running"].process.pid
        set_apart(pid, [bulk.pid, more.pid, sinks.pid], [timed.pid, echoing.pid])
        peer, calm = sinks.ask(do="sink")["peer"], echoing.ask(do="sink")["peer"]
        bulk.ask(do="flood", peer=peer, seconds=1.0)
        pool = stack.enter_context(ThreadPoolExecutor())
        for _ in range(rounds):
            before = cpu_seconds(pid)
            carried = bulk.ask(do="flood", peer=peer, seconds=SECONDS)["bytes"]
            figures["rate"].append(carried / (cpu_seconds(pid) - before))
            rate = BUSY * median(figures["rate"])
            for turn in range(1 + PAIRS):  # the first is a trial: steps and smaller writes cost more
                seconds = PAIR if turn else TRIAL
                if turn:
                    figures["alone"].append(_steps(timed, calm, seconds))
                began, before = time.perf_counter(), cpu_seconds(pid)
                flood = pool.submit(bulk.ask, do="flood", peer=peer, seconds=seconds, rate=rate)
                times = _steps(timed, calm, seconds)
                flood.result()
                share = (cpu_seconds(pid) - before) / (time.perf_counter() - began)
                rate *= BUSY / max(share, BUSY / 2)  # less is a generator that was held up
                if turn:
                    figures["busy"].append(times)
                    figures["share"].append(share)
            both = [pool.submit(one.ask, do="flood", peer=peer, seconds=SECONDS) for one in (bulk, more)]
            figures["beside"] += _steps(timed, calm)
            figures["greedy"].append([one.result()["bytes"] for one in both])
            flood = pool.submit(bulk.ask, do="flood", peer=peer, seconds=SECONDS)
            carried = more.ask(do="flood", peer=peer, seconds=SECONDS, rate=MODEST)["bytes"]
            figures["modest"].append(carried / (MODEST * SECONDS))
            flood.result()
    figures["full"] = [_measure_full(folder)]
    return Result(list(_rows(figures)), figures)


def _measure_full(folder: Path) -> dict[str, Any]:
    """A relay that may open no more connections, at which ``KNOCKS`` more knock while a circuit is in use."""
    command = [KWAAINET, "relay", "--http", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0/ws"]
    shell = ["sh", "-c", f'ulimit -n {FILES}; exec "$0" "$@"', *command]
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(started(shell, folder, "full"))
        address = _address(running.event("ready"))
        load, timed, echoing = (stack.enter_context(generator(address)) for _ in range(3))
        set_apart(running.process.pid, [load.pid], [timed.pid, echoing.pid])
        calm = echoing.ask(do="sink")["peer"]
        pool = stack.enter_context(ThreadPoolExecutor())
        steps = pool.submit(_steps, timed, calm, 3 * SECONDS)
        time.sleep(SETTLE)
        load.ask(do="idle", peers=ROOM - 2)  # the two are those of the circuit
        return {**load.ask(do="knock", peers=KNOCKS), "steps": steps.result()}


def _rows(figures: dict[str, list[Any]]) -> Iterator[Row]:
    _, beside = _spread(figures["beside"])
    alone, busy = ([_spread(times) for times in figures[name]] for name in ("alone", "busy"))
    middle, late = (median(one[at] for one in alone) for at in (0, 1))
    more_middle, more_late = (
        median(two[at] - one[at] for one, two in zip(alone, busy, strict=True)) for at in (0, 1)
    )
    yield Row(
        "relay, ws circuits of plain bytes, one way: MB per core-second",
        f"{median(figures['rate']) / 1e6:.0f}",
        goal="≥ 280",
    )
    yield Row(
        f"· added to a step's echo at {median(figures['share']):.0%} of the relay's core, p50 and p99",
        f"{more_middle:.1f}, {more_late:.1f} ms",
        f"{middle:.1f}, {late:.1f} ms alone, of {len(alone)} pairs",
        goal="< 5 ms",
    )
    more = median(max(pair) / sum(pair) for pair in figures["greedy"])
    yield Row(
        "· of two circuits to one peer that want everything, the greedier gets",
        f"{more:.0%}",
        f"a step's echo to another peer takes {beside:.1f} ms p99",
    )
    yield Row(
        f"· a circuit that wants {MODEST / 1e6:.0f} MB/s beside one that wants everything gets",
        f"{median(figures['modest']):.0%} of it",
    )
    full = figures["full"][0]
    yield Row(
        f"· {KNOCKS} connections more than a full relay takes: refused",
        f"{full['refused']}",
        f"a step's echo through it meanwhile takes {_spread(full['steps'])[1]:.1f} ms p99",
        goal="no stall",
    )


def _steps(generator: Generator, peer: str, seconds: float = SECONDS) -> list[float]:
    times: list[float] = generator.ask(do="echo", peer=peer, seconds=seconds)["milliseconds"]
    return times


def _spread(times: list[float]) -> tuple[float, float]:
    """Median and 99th percentile."""
    cuts = quantiles(times, n=100, method="inclusive")
    return cuts[49], cuts[98]


def _address(ready: dict[str, Any]) -> str:
    return str(next(address for address in ready["maddrs"] if "/ws/" in address))

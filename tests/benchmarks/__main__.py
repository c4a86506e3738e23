"""The benchmarks of README's table: ``make bench``, or some only: ``make bench ARGS="relaying start"``.
``make bench ARGS="steps --profile"`` profiles a tab's workers instead, ``"kernel --profile"`` the kernels.

Peers are measured in the same run, in turns; figures are medians. The table goes to standard output,
what happens to standard error, every figure to .cache/benchmarks/NAME.json, what the processes said to
.cache/benchmarks/logs/NAME. Kills and leaves that this commit has already (``journal.py``) count towards the
rounds asked for. The exit code is 1 if a benchmark could not be run or the guard found a figure worse than
its baseline; a missed goal is not an error.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from interop.running import Failed

from . import (
    attention,
    direct,
    echo,
    endpoint,
    gateway,
    generation,
    gpu,
    guard,
    kernel,
    kernel_profile,
    kills,
    leaving,
    llama_cpp,
    load,
    paint,
    profiling,
    quality,
    relaying,
    sessions,
    steps,
    tab_chain,
    threads,
    visits,
)
from .journal import RESULTS, forget
from .report import Result, Row, markdown, save

DEFAULT_ROUNDS = 5

BENCHMARKS: dict[str, Callable[[Path, int], Result]] = {
    "bytes": visits.measure_bytes,
    "paint": paint.measure,
    "start": visits.measure_start,
    "generation": generation.measure,
    "steps": steps.measure,
    "echo": echo.measure,
    "sessions": sessions.measure,
    "relaying": relaying.measure,
    "load": load.measure,
    "openai": endpoint.measure,
    "leaving": leaving.measure,
    "gateway": gateway.measure,
    "gateway_tabs": gateway.measure_tabs,
    "kills": kills.measure,
    "direct": direct.measure,
    "tab_chain": tab_chain.measure,
    "killed_tabs": kills.measure_tabs,
    "kernel": kernel.measure,
    "threads": threads.measure,
    "attention": attention.measure,
    "llama_cpp": llama_cpp.measure,
    "guard": guard.measure,
    "quality": quality.measure,
    "gpu": gpu.measure,
}

BY_NAME: dict[str, Callable[[Path, int], Result]] = {"idle": load.measure_idle}  # minutes long
PROFILES: dict[str, Callable[[Path, int], Result]] = {
    "steps": profiling.measure,
    "kernel": kernel_profile.measure,
}


def main() -> int:
    """Run what was asked for; every benchmark that can be run is, whatever happens to the others."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"some of: {', '.join(BENCHMARKS | BY_NAME)}"
    )
    parser.add_argument(
        "--rounds", type=int, default=DEFAULT_ROUNDS, metavar="N", help="of each peer (%(default)s)"
    )
    parser.add_argument("--anew", action="store_true", help="count no kills and leaves of earlier runs")
    parser.add_argument(
        "--profile", action="store_true", help=f"profile what is named: {', '.join(PROFILES)}"
    )
    options = parser.parse_args()
    measured = PROFILES if options.profile else BENCHMARKS | BY_NAME
    if unknown := set(options.names) - measured.keys():
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(measured)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever was started is ended
    rows: list[Row] = []
    failed = False
    for name in options.names or (PROFILES if options.profile else BENCHMARKS):
        print(f"benchmark {name}", file=sys.stderr, flush=True)
        if options.anew:
            forget(name)
        with _folder(name) as folder:
            try:
                result = measured[name](folder, options.rounds)
            except (Failed, OSError, subprocess.CalledProcessError) as error:
                print(f"benchmark {name} failed: {error}", file=sys.stderr, flush=True)
                failed = True
                continue
        save(RESULTS, f"{name}-profile" if options.profile else name, result)
        rows += result.rows
    print(markdown(rows))
    return 1 if failed else 0


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    """For one run; what processes have written is kept until the next one."""
    logs = RESULTS / "logs" / name
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix=f"kwaainet-{name}-") as folder:
        try:
            yield Path(folder)
        finally:
            for path in (*Path(folder).glob("*.out"), *Path(folder).glob("*.err")):
                shutil.copy(path, logs)


if __name__ == "__main__":
    sys.exit(main())

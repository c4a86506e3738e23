"""What a process has used so far, as Linux tells it.

Rule of the file: figures of one process, its threads included; its children only where the name says so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_USER, _SYSTEM = 11, 12  # fields of stat behind the name, which may hold spaces


def cpu_seconds(process_id: int) -> float:
    """Processor time, user and system, in steps of 10 ms."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS


def family_cpu_seconds(process_id: int) -> float:
    """The same of the process and all that it has started, and those in turn, as far as they still run."""
    total, family = 0.0, [process_id]
    while family:
        one = family.pop()
        with contextlib.suppress(OSError):  # it has ended meanwhile
            total += cpu_seconds(one)
            for task in Path(f"/proc/{one}/task").iterdir():
                with contextlib.suppress(OSError):
                    family += map(int, (task / "children").read_text().split())
    return total


def resident_kilobytes(process_id: int) -> float:
    """Memory that the process really holds."""
    status = Path(f"/proc/{process_id}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return float(line.split()[1])


def set_apart(measured: int, load: Iterable[int], timing: Iterable[int] = ()) -> None:
    """Give ``measured`` the first core and everybody else the rest.

    They go before all else on their core where the system lets us say so, which is root's, and ``timing``
    before the ``load``: neither neighbours nor the load's own work are to be measured.
    """
    first, *rest = sorted(os.sched_getaffinity(0))
    places = [(measured, {first}, 2), *((one, set(rest) or {first}, 1) for one in load)]
    places += [(one, set(rest) or {first}, 2) for one in timing]
    for process_id, cores, priority in places:
        os.sched_setaffinity(process_id, cores)
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(process_id, os.SCHED_RR, os.sched_param(priority))


class Thread(NamedTuple):
    """One thread of a process; names are the first 15 letters that its process gave it."""

    process_id: int
    thread_id: int
    name: str


def family_threads(process_id: int) -> dict[Thread, float]:
    """Processor seconds of every thread of the process and of all that it has started, to the microsecond."""
    found: dict[Thread, float] = {}
    family = [process_id]
    while family:
        one = family.pop()
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for task in Path(f"/proc/{one}/task").iterdir():
                with contextlib.suppress(OSError):
                    thread = Thread(one, int(task.name), (task / "comm").read_text().strip())
                    found[thread] = int((task / "schedstat").read_text().split()[0]) / 1e9
                    family += map(int, (task / "children").read_text().split())
    return found


def command_line(process_id: int) -> str:
    """What the process was started with, or calls itself; empty where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process_id}/cmdline").read_text().replace("\0", " ")
    return ""

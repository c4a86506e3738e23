"""Processor time of a step, thread by thread along its way: other programs change it less than its duration.

Rule of the file: an echo of the network worker tells which of the tab's threads that is; of the others
the node worker is the one that a step keeps busiest.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable

from .processes import Thread, command_line, family_threads
from .report import Row

WORKER = "DedicatedWorker"
BETWEEN = "Chrome_ChildIOT"  # hands a process the messages of others
HOPS = (
    "client",
    "relay",
    "the browser's network service",
    "the browser's threads between",
    "network worker",
    "node worker",
)
BESIDE = "beside it: the page, compiling, collecting garbage"

Probe = Callable[[], Awaitable[object]]
Times = dict[Thread, float]


async def processor_times(relay: int, tab: int, echo: Probe, step: Probe, count: int) -> dict[str, float]:
    """Milliseconds of one ``step`` by hop; the process ids are those of the relay and of ``kwaainet tab``."""
    echoed = await _used((tab,), echo, count)
    used = await _used((relay, tab), step, count)
    workers = [thread for thread in used if thread.name.startswith(WORKER)]
    network = max(workers, key=lambda thread: echoed.get(thread, 0.0))
    node = max((thread for thread in workers if thread != network), key=used.__getitem__)
    known = {network: "network worker", node: "node worker"}
    spent: Counter[str] = Counter()
    for thread, seconds in used.items():
        spent[known.get(thread) or _hop(thread, relay)] += 1000 * seconds / count
    return dict(spent)


async def _used(processes: tuple[int, ...], probe: Probe, count: int) -> Times:
    before = _times(processes)
    for _ in range(count):
        await probe()
    return {thread: seconds - before.get(thread, 0.0) for thread, seconds in _times(processes).items()}


def _times(processes: tuple[int, ...]) -> Times:
    times = {thread: used for thread, used in family_threads(os.getpid()).items() if _is_ours(thread)}
    for process in processes:
        times |= family_threads(process)
    return times


def _is_ours(thread: Thread) -> bool:
    return thread.process_id == os.getpid()  # not one that this process has started


def _hop(thread: Thread, relay: int) -> str:
    if _is_ours(thread):
        return "client"
    if thread.process_id == relay:
        return "relay"
    if "NetworkService" in command_line(thread.process_id):
        return "the browser's network service"
    return "the browser's threads between" if thread.name == BETWEEN else BESIDE


def rows(spent: dict[str, float]) -> list[Row]:
    """The sum of what a step waits for, its parts in order, and what else was used meanwhile."""
    total = sum(spent.get(hop, 0.0) for hop in HOPS)
    parts = [(hop, spent.get(hop, 0.0)) for hop in HOPS]
    return [
        Row("processor time of a step without tokens, along its way", f"{total:.2f} ms"),
        *(Row(f"· {hop}", f"{used:.2f} ms", f"{used / total:.0%} of it") for hop, used in parts),
        Row(f"· {BESIDE}", f"{spent.get(BESIDE, 0.0):.2f} ms"),
    ]

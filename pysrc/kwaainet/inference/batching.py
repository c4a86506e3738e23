"""Which decode steps become one run: rows of one slab, each of its own length.

Rule of the file: no tensor's contents are looked at; what fails is told of its own step, beside it.

A run covers adjacent rows. Rows in between that take no part are computed all the same, from zeros:
such a row writes behind its valid positions, where nobody has looked yet and the next run of that
row writes first. A row without such a place (its slab's capacity is full) is never run over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias

import numpy as np

from ..errors import EngineError, LocalError
from ..ports import Floats, StepResult
from ..types import BlockRange
from .cache import Cache, CacheTable, Storage
from .slabs import Memory, Slab

Numbered: TypeAlias = tuple[int, Cache[Storage]]  # a cache, and the place of its step in the request


@dataclass(slots=True)
class StepRun(Generic[Memory]):
    """One position for each of the slab's rows from ``first_row`` to before ``end_row``."""

    slab: Slab[Memory]
    blocks: BlockRange
    first_row: int
    end_row: int
    steps: list[Numbered[Slab[Memory]]] = field(default_factory=list)

    @property
    def lengths(self) -> list[int]:
        """The positions that each row holds before the run; 0 for rows that belong to nobody."""
        lengths = [0] * (self.end_row - self.first_row)
        for cache in self.slab.tenants:
            for row in range(max(cache.first_row, self.first_row), min(cache.end_row, self.end_row)):
                lengths[row - self.first_row] = cache.length
        return lengths

    def gather(self, hidden: Sequence[Floats]) -> Floats:
        """The run's input [rows, 1, hidden size] out of the steps' own; zeros for rows without a step."""
        width = hidden[self.steps[0][0]].shape[2]
        x = np.zeros((self.end_row - self.first_row, 1, width), np.float32)
        for index, cache in self.steps:
            x[self._rows(cache)] = hidden[index]
        return x

    def scatter(self, y: Floats, results: list[StepResult]) -> None:
        """Each step's part of the run's output, as an array of its own."""
        for index, cache in self.steps:
            results[index] = y[self._rows(cache)].copy()

    def _rows(self, cache: Cache[Slab[Memory]]) -> slice:
        return slice(cache.first_row - self.first_row, cache.end_row - self.first_row)


def check_steps(
    caches: CacheTable[Storage], steps: Sequence[tuple[int, Floats]]
) -> tuple[list[StepResult], list[Numbered[Storage]]]:
    """(a place for each step's result, with the error of those that cannot be run; the others)."""
    results: list[StepResult] = []
    sound: dict[int, Numbered[Storage]] = {}
    for index, (handle, hidden) in enumerate(steps):
        results.append(hidden)  # until there is something better
        try:
            cache = caches[handle]
            if handle in sound:
                raise EngineError(f"cache {handle} was given two steps of one run; they follow each other")
            caches.check_run(cache, hidden)
            if hidden.shape[1] != 1:
                raise EngineError(f"a step is one position a row, got {hidden.shape[1]}; use run()")
            sound[handle] = index, cache
        except LocalError as error:
            results[index] = error
    return results, list(sound.values())


def step_runs(steps: Iterable[Numbered[Slab[Memory]]], bridge: int | None) -> list[StepRun[Memory]]:
    """Cut steps into runs; up to ``bridge`` rows that take no part are run over to save a run.

    ``None`` means: whole slabs, as far as that may be.
    """
    groups: dict[tuple[int, BlockRange], list[Numbered[Slab[Memory]]]] = {}
    for index, cache in steps:
        groups.setdefault((id(cache.storage), cache.blocks), []).append((index, cache))
    runs: list[StepRun[Memory]] = []
    for group in groups.values():
        group.sort(key=lambda step: step[1].first_row)
        runs += _cut(group, bridge)
    return runs


def _cut(group: list[Numbered[Slab[Memory]]], bridge: int | None) -> list[StepRun[Memory]]:
    slab, blocks = group[0][1].storage, group[0][1].blocks
    caches = [cache for _, cache in group]
    walls = [
        other.first_row for other in slab.tenants if other.length >= slab.capacity and other not in caches
    ]
    runs: list[StepRun[Memory]] = []
    for index, cache in group:
        run = runs[-1] if runs else None
        between = range(run.end_row, cache.first_row) if run else range(0)
        if run is None or not _passable(between, bridge, walls):
            run = StepRun(slab, blocks, cache.first_row, cache.end_row)
            runs.append(run)
        run.steps.append((index, cache))
        run.end_row = cache.end_row
    if bridge is None and not walls:
        runs[0].first_row, runs[0].end_row = 0, slab.rows
    return runs


def _passable(between: range, bridge: int | None, walls: Sequence[int]) -> bool:
    return (bridge is None or len(between) <= bridge) and not any(wall in between for wall in walls)

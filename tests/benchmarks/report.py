"""What a benchmark found: rows of README's table, and every single figure behind them.

Rule of the file: nothing is measured here.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

HEADINGS = ("measured", "KwaaiNet", "compared with", "ratio", "goal")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``ours`` and ``theirs`` are medians with their unit."""

    what: str
    ours: str
    theirs: str = ""
    ratio: float | None = None
    goal: str = ""

    def cells(self) -> tuple[str, ...]:
        """As the table shows them."""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return (self.what, self.ours, self.theirs, ratio, self.goal)


@dataclass(frozen=True, slots=True)
class Result:
    """A benchmark's rows, and ``figures``: all single measurements, as JSON has them."""

    rows: Sequence[Row]
    figures: dict[str, Any] = field(default_factory=dict)


def markdown(rows: Iterable[Row]) -> str:
    """The table, ready for README."""
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, 95th percentile and largest; quantiles between two values are interpolated."""
    ordered = sorted(values)
    if len(ordered) < 2:
        return (ordered[0],) * 3
    cuts = quantiles(ordered, n=20, method="inclusive")
    return cuts[9], cuts[18], ordered[-1]


def kills_row(
    who: str, kills: str, gaps: Sequence[float], usual: float, wrong: int, generations: int, lost: int
) -> Row:
    """One row for generations in which servers were killed; ``lost`` of them ended in an error."""
    middle, late, longest = spread(gaps)
    outcome = f"{wrong} of {generations} generations wrong, {lost} lost"
    return Row(
        f"{who}, {kills}: gap p50 / p95 / longest",
        f"{middle:.2f} / {late:.2f} / {longest:.2f} s, {outcome}",
        f"{usual:.3f} s between tokens without a kill",
        goal="p95 < 1 s, 0 wrong",
    )


def save(folder: Path, name: str, result: Result) -> Path:
    """Write one benchmark's rows and figures, and what machine they are from, as JSON."""
    path = folder / f"{name}.json"
    machine = {"cores": os.cpu_count(), "load": os.getloadavg(), "platform": platform.platform()}
    rows = [dict(zip(HEADINGS, row.cells(), strict=True)) for row in result.rows]
    path.write_text(
        json.dumps({"machine": machine, "rows": rows, "figures": result.figures}, indent=1) + "\n"
    )
    return path

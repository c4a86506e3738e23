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


def save(folder: Path, name: str, result: Result) -> Path:
    """Write one benchmark's rows and figures, and what machine they are from, as JSON."""
    path = folder / f"{name}.json"
    machine = {"cores": os.cpu_count(), "load": os.getloadavg(), "platform": platform.platform()}
    rows = [dict(zip(HEADINGS, row.cells(), strict=True)) for row in result.rows]
    path.write_text(
        json.dumps({"machine": machine, "rows": rows, "figures": result.figures}, indent=1) + "\n"
    )
    return path

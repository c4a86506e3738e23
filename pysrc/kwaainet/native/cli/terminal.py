"""What the commands print: human text to stderr, one JSON object a line to stdout.

Rule of the file: nothing here decides anything; a progress line is redrawn on a terminal and is a
line per tenth in a log file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from ...types import Progress

MEGA = 1_000_000
STAGES = {
    "hash": "checking the model",
    "python": "starting Python",
    "weights": "weights",
    "build": "building the engine",
}


def say(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, file=sys.stderr, flush=True)


def emit(event: Mapping[str, Any]) -> None:
    """A line for the program that reads us."""
    print(json.dumps(event, separators=(",", ":")), flush=True)


class ProgressLine:
    """A ``ports.Report`` that draws: call it with each ``Progress``, then ``finish()``."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._stage = ""
        self._tenth = -1

    def __call__(self, progress: Progress) -> None:
        tenth = 10 * progress.done // progress.total if progress.total else 0
        if not self._live and (progress.stage, tenth) == (self._stage, self._tenth):
            return
        if self._live and self._stage and progress.stage != self._stage:
            print(file=sys.stderr)
        self._stage, self._tenth = progress.stage, tenth
        text = describe(progress)
        if self._live:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        else:
            say(text)

    def finish(self) -> None:
        """End the line that is being redrawn, if one is."""
        if self._live and self._stage:
            print(file=sys.stderr)
        self._stage = ""


def describe(progress: Progress) -> str:
    """``stage: 3.2 of 98.4 MB (3 %), 1.0 MB of it from the cache``; totals below 100,000 are steps."""
    stage = STAGES.get(progress.stage, progress.stage)
    if not progress.total:
        return stage
    percent = f"({100 * progress.done // progress.total} %)"
    if progress.total < MEGA // 10:
        return f"{stage}: {progress.done} of {progress.total} {percent}"
    kept = f", {progress.cached / MEGA:.1f} MB of it from the cache" if progress.cached else ""
    return f"{stage}: {progress.done / MEGA:.1f} of {progress.total / MEGA:.1f} MB {percent}{kept}"

"""What a long benchmark has measured so far, one JSON line each as it happens: interrupted, it goes on later.

.cache/benchmarks/NAME.jsonl. Each line names the commit whose sources were measured, so that figures of two
are never mixed. Rule of the file: a line tells of something that is over, and none is ever changed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from interop.running import ROOT, Failed

RESULTS = ROOT / ".cache" / "benchmarks"


class Journal:
    """The lines of one benchmark. Those of other commits stay where they are."""

    def __init__(self, name: str) -> None:
        self._path = RESULTS / f"{name}.jsonl"
        self._commit = _commit()
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        found = [json.loads(line) for line in lines]
        self._lines = [line for line in found if line["commit"] == self._commit]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """All of this kind that this commit has, oldest first."""
        return [line for line in self._lines if line["kind"] == kind]

    def measured(self, kind: str) -> list[dict[str, Any]]:
        """The same; ``Failed`` if there is nothing."""
        if not (found := self.of(kind)):
            raise Failed(f"no {kind} has been measured at this commit; ask for a round or more")
        return found

    def note(self, kind: str, **fields: Any) -> None:
        """Keep one more, and say so."""
        line = {"kind": kind, **fields, "load": round(os.getloadavg()[0], 1)}
        print(json.dumps(line), file=sys.stderr, flush=True)
        line |= {"commit": self._commit, "time": round(time.time(), 3)}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._lines.append(line)


def forget(name: str) -> None:
    """Let the next ``Journal`` of this name begin with nothing."""
    (RESULTS / f"{name}.jsonl").unlink(missing_ok=True)


def _commit() -> str:
    """What is checked out; changes to it that are not committed are told by a sign."""
    asked = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

"""The regression guard: figures that no noise touches, against those committed in baseline.json.

``make bench ARGS=guard`` fails if one is worse than its baseline by more than its tolerance, or if a
baseline is missing; after an intended change, ``PYTHONPATH=tests python -m benchmarks.guard --update``
writes them anew, to be committed with the change that explains them. Rule of the file: a figure is a
count or a ratio of counts, less is better, and two runs of it on any machine give the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interop.running import Failed

from . import counted, counted_relay, counted_tab
from .report import Result, Row, markdown

BASELINE = Path(__file__).with_name("baseline.json")
DEFAULT_TOLERANCE = 0.02

# Each measures some figures; whoever has stable ones adds a line.
SOURCES: Sequence[Callable[[], Mapping[str, float]]] = (
    counted.steps,
    counted.weights,
    counted_relay.relay,
    counted_tab.bundles,
    counted_tab.wire,
    counted_tab.wakes,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A figure beside its baseline; ``problem`` is empty where all is well."""

    name: str
    found: float
    baseline: float | None
    problem: str = ""

    def row(self) -> Row:
        """As the table shows it; the ratio is that of README's: above 1 is better."""
        if self.baseline is None:
            return Row(self.name, f"{self.found:g}")
        return Row(self.name, f"{self.found:g}", f"{self.baseline:g} (baseline)", self.baseline / self.found)


def compare(found: Mapping[str, float], baseline: Mapping[str, Any]) -> list[Verdict]:
    """One verdict for each figure found, and for each that is missing."""
    verdicts = [_verdict(name, value, baseline.get(name)) for name, value in found.items()]
    for name in baseline.keys() - found.keys():
        value = float(baseline[name]["value"])
        verdicts.append(Verdict(name, value, value, f"{name}: was not measured; its baseline is {value:g}"))
    return verdicts


def _verdict(name: str, value: float, expected: Mapping[str, float] | None) -> Verdict:
    if expected is None:
        return Verdict(name, value, None, f"{name}: {value:g}, without a baseline")
    limit = expected["value"] * (1 + expected["tolerance"])
    if value <= limit:
        return Verdict(name, value, expected["value"])
    problem = (
        f"{name}: {value:g} is {value / expected['value'] - 1:.1%} above the baseline of "
        f"{expected['value']:g} (allowed {expected['tolerance']:.0%})"
    )
    return Verdict(name, value, expected["value"], problem)


def measure(folder: Path, rounds: int) -> Result:
    """Raises ``Failed`` with every figure that is out of bounds; one round is as good as many."""
    verdicts = compare(_found(), _baseline())
    if problems := [verdict.problem for verdict in verdicts if verdict.problem]:
        raise Failed("\n".join([*problems, "if that is meant, run python -m benchmarks.guard --update"]))
    return Result([verdict.row() for verdict in verdicts], {v.name: v.found for v in verdicts})


def _found() -> dict[str, float]:
    return {name: value for source in SOURCES for name, value in source().items()}


def _baseline() -> dict[str, Any]:
    return dict(json.loads(BASELINE.read_text())) if BASELINE.exists() else {}


def update() -> None:
    """Write what is found now; tolerances that are stated stay."""
    old, found = _baseline(), _found()
    new = {
        name: {"value": value, "tolerance": old.get(name, {}).get("tolerance", DEFAULT_TOLERANCE)}
        for name, value in found.items()
    }
    BASELINE.write_text(json.dumps(new, indent=1) + "\n")


def main() -> int:
    """Compare, after writing the baseline anew if asked to."""
    parser = argparse.ArgumentParser(prog="benchmarks.guard", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write baseline.json")
    if parser.parse_args().update:
        update()
    try:
        print(markdown(measure(Path(), 1).rows))
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

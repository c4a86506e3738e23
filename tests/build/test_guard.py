"""The regression guard of ``make bench`` sees what got worse, and nothing else."""

from __future__ import annotations

import json

from benchmarks.guard import BASELINE, compare

EXPECTED = {"lines": {"value": 100.0, "tolerance": 0.1}}


def problems(found: dict[str, float]) -> list[str]:
    return [verdict.problem for verdict in compare(found, EXPECTED) if verdict.problem]


def test_what_is_better_or_within_its_tolerance_passes() -> None:
    for value in (1.0, 100.0, 110.0):
        assert problems({"lines": value}) == []


def test_what_is_worse_missing_or_new_is_said() -> None:
    assert problems({"lines": 111.0}) == ["lines: 111 is 11.0% above the baseline of 100 (allowed 10%)"]
    assert problems({}) == ["lines: was not measured; its baseline is 100"]
    assert problems({"lines": 100.0, "bytes": 3.0}) == ["bytes: 3, without a baseline"]


def test_the_committed_baseline_states_values_and_tolerances() -> None:
    for name, entry in json.loads(BASELINE.read_text()).items():
        assert entry.keys() == {"value", "tolerance"}, name
        assert entry["value"] > 0
        assert 0 < entry["tolerance"] <= 0.25

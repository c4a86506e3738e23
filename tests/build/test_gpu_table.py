"""The table of the graphics device goes between its marks in README, and nowhere else."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from benchmarks.gpu import BEGIN, END, write_table
from benchmarks.report import Row
from interop.running import Failed

ROWS = [Row("float32: one token", "1.5 ms a block", "1.2 ms to read it", 0.8)]


def test_what_is_between_the_marks_is_replaced(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_table(readme, "a card", date(2026, 1, 2), ROWS)
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\nMeasured on a card, 2026-01-02.\n\n| measured |")
    assert text.endswith(f"| 0.80 |  |\n{END}\nafter\n")
    assert "old" not in text


def test_without_the_marks_nothing_is_written(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no marks\n")
    with pytest.raises(Failed, match="has not the marks"):
        write_table(readme, "a card", date(2026, 1, 2), ROWS)
    assert readme.read_text() == "no marks\n"

"""Kills and leaves are kept one by one, and counted by commit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import journal
from benchmarks.journal import Journal, forget
from interop.running import Failed


def test_what_was_noted_is_there_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "RESULTS", tmp_path)
    with pytest.raises(Failed, match="no kill has been measured"):
        Journal("kills").measured("kill")
    Journal("kills").note("kill", gap=0.5)
    again = Journal("kills")
    again.note("kill", gap=0.25)
    again.note("generation", wrong=False)
    assert [one["gap"] for one in Journal("kills").measured("kill")] == [0.5, 0.25]
    with (tmp_path / "kills.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "kill", "gap": 9.0, "commit": "another"}) + "\n")
    assert len(Journal("kills").of("kill")) == 2
    forget("kills")
    assert Journal("kills").of("kill") == []

"""The two sizes of a long proof."""

from __future__ import annotations

import subprocess

import pytest
from interop.running import ROOT
from nightly.sizes import SWITCH, size


def test_a_proof_is_short_unless_it_is_night(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    assert size(3, 30) == 3
    monkeypatch.setenv(SWITCH, "0")
    assert size(3, 30) == 3
    monkeypatch.setenv(SWITCH, "1")
    assert size(3, 30) == 30


def test_make_nightly_asks_for_the_whole_of_what_make_test_runs_shortly() -> None:
    commands = subprocess.run(
        ["make", "--dry-run", "nightly"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert f"{SWITCH}=1 " in commands
    assert commands.rstrip().endswith("tests/nightly")

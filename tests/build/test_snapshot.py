"""The memory that tabs start from: the same bytes each time, with everything in it."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
NODE = ROOT / ".venv" / "bin" / "node"
PYODIDE = ROOT / "dist" / "pyodide"
RESTORE = Path(__file__).with_name("restore.mjs")


def restore(folder: Path) -> subprocess.CompletedProcess[str]:
    """What Python, restored in Node as in a tab, prints of itself; nothing is kept between two calls."""
    return subprocess.run([NODE, RESTORE, folder], capture_output=True, text=True)


def test_the_same_wheels_give_the_same_memory(tmp_path: Path) -> None:
    packages, folder = tmp_path / "packages", tmp_path / "pyodide"
    folder.mkdir()
    for path in PYODIDE.iterdir():
        if path.name.startswith(("pyodide", "python_stdlib")):
            (folder / path.name).symlink_to(path)
    for wheel in sorted(PYODIDE.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages, [name for name in archive.namelist() if ".dist-info/" not in name])
    subprocess.run([NODE, ROOT / "build" / "snapshot.mjs", folder, packages], check=True)
    for name in ("snapshot.json", "snapshot.bin"):
        assert (folder / name).read_bytes() == (PYODIDE / name).read_bytes()


def test_everything_is_there_without_a_file_and_chance_is_new() -> None:
    done = [restore(PYODIDE) for _ in range(2)]
    assert [one.returncode for one in done] == [0, 0], done[0].stderr[-2000:]
    found = [json.loads(one.stdout) for one in done]
    for one in found:
        assert one["imported"] > 400
        assert one["native"] == one["testing"] == 0
        assert one["product"] == 14.0, "numpy's compiled part computes"
        assert one["packed"] == [1, "zwei", 3.5], "msgpack's compiled part packs"
    assert found[0]["random"] != found[1]["random"], "all tabs would draw the same"


def test_memory_of_another_layout_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "pyodide"
    shutil.copytree(PYODIDE, folder, copy_function=lambda source, target: Path(target).symlink_to(source))
    index = json.loads((PYODIDE / "snapshot.json").read_text())
    (folder / "snapshot.json").unlink()
    (folder / "snapshot.json").write_text(json.dumps({**index, "layout": "table 1, memory 2"}))
    done = restore(folder)
    assert done.returncode == 1
    assert "lays it out otherwise" in done.stderr

"""What a tab loads: of other platforms' wheels the Python alone, and of all Python the byte code."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

SETUP = Path(__file__).parents[2] / "build" / "setup"
# In a process of its own: the set-up's modules are scripts, and one is called as a package of the tab is.
DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import pyodide
pyodide.CACHE = Path(sys.argv[2])
print(pyodide._without_binaries(Path(sys.argv[3])))
"""


def strip(folder: Path, wheel: Path) -> Path:
    command = [sys.executable, "-c", DRIVER, SETUP, folder, wheel]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def test_only_the_python_of_a_compiled_wheel_is_kept(tmp_path: Path) -> None:
    wheel = tmp_path / "fast-1.0-cp314-cp314-manylinux2014_x86_64.whl"
    files = ("fast/__init__.py", "fast/_native.py", "fast/_speedups.so", "fast/_speedups.c", "fast/py.typed")
    about = ("fast-1.0.dist-info/METADATA", "fast-1.0.dist-info/WHEEL", "fast-1.0.dist-info/RECORD")
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (*files, *about):
            archive.writestr(name, name)
    pure = strip(tmp_path, wheel)
    assert pure == tmp_path / "fast-1.0-py3-none-any.whl"
    with zipfile.ZipFile(pure) as archive:
        assert archive.namelist() == [files[0], files[1], files[4], *about[:2]]
        assert archive.read(files[1]) == files[1].encode()
        assert b"Tag: py3-none-any" in archive.read(about[1])
    first = pure.read_bytes()
    assert strip(tmp_path, wheel).read_bytes() == first, "the same bytes each time"


def test_a_pure_wheel_is_taken_as_it_is(tmp_path: Path) -> None:
    wheel = tmp_path / "slow-1.0-py3-none-any.whl"
    assert strip(tmp_path, wheel) == wheel


def test_a_tab_loads_byte_code_that_its_interpreter_takes_without_a_source() -> None:
    folder = SETUP.parents[1] / "dist" / "pyodide"
    archives = [*folder.glob("*.whl"), folder / "python_stdlib.zip"]
    assert len(archives) == 6
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            assert not [name for name in names if name.endswith(".py") or "/tests/" in name], path
            assert not [name for name in names if name.startswith("kwaainet/native/")]
            module = archive.read(next(name for name in names if name.endswith(".pyc")))
            assert int.from_bytes(module[4:8], "little") == 0b01, "bound to a hash that nobody checks"

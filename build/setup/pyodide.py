"""The wheel, and the Pyodide distributions that hold it.

A distribution is a folder with wheels and a lock file of our own that names exactly those, by hash;
Pyodide's loader checks them. The interpreter itself comes from the npm package, unchanged. What a tab loads
holds byte code in place of Python's text, or each start would compile it again.
Rule of the file: no wheel gets in whose hash is not written down in this repository.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable
from email.parser import Parser
from pathlib import Path

from fetch import member, place, sha256_of, wheels_of
from places import (
    CACHE,
    DIST,
    NODE,
    NODE_MODULES,
    PYODIDE,
    PYODIDE_TESTS,
    PYTHON,
    REQUIREMENTS,
    ROOT,
    shared_cache,
)
from snapshot import add_snapshot
from steps import SetupError, call, locked

NUMPY = "numpy-2.4.3-cp314-cp314-pyemscripten_2026_0_wasm32.whl"
NUMPY_SHA256 = "0cad9c1b91f0082e4f959bc0e0bf5835a2efbba6ab3b1e9d1fe6e7e564cca98e"
# No index carries numpy for WebAssembly by itself. These packages ship a whole Pyodide of the same ABI; the
# hash is the one that Pyodide's own lock file (npm, pyodide 314.0.3) gives for numpy.
NUMPY_SOURCES = tuple(
    (f"open-webui=={version}", f"open_webui/frontend/pyodide/{NUMPY}") for version in ("0.12.4", "0.12.3")
)

INTERPRETER = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm")
LIBRARY = "python_stdlib.zip"
COMPILED = CACHE / "compiled"
COMPILER = ROOT / "build" / "compile.mjs"
TARGET = ("--platform", "pyemscripten_2026_0_wasm32", "--python-version", "3.14",
          "--implementation", "cp", "--abi", "cp314")  # fmt: skip
LOCK = REQUIREMENTS / "pyodide.txt"
# Only the Python of these is taken: what MarkupSafe compiles for this platform, it has in Python too.
PURE_TARGET = ("--platform", "manylinux2014_x86_64", "--python-version", "3.14",
               "--implementation", "cp", "--abi", "cp314")  # fmt: skip
PURE_LOCK = REQUIREMENTS / "pyodide-pure.txt"
TESTS_LOCK = REQUIREMENTS / "pyodide-tests.txt"


def build_wheel() -> None:
    """dist/kwaainet-VERSION-py3-none-any.whl, the only one there."""
    for old in DIST.glob("kwaainet-*.whl"):
        old.unlink()
    call(PYTHON, "-m", "hatchling", "build", "--target", "wheel", "--directory", DIST, quiet=True)
    (CACHE / "wheel").write_text(f"{wheel().name}\n")


def wheel() -> Path:
    """The built wheel."""
    found = next(DIST.glob("kwaainet-*.whl"), None)
    if found is None:
        raise SetupError("dist/ holds no kwaainet wheel; run: make wheel")
    return found


def build_distribution() -> None:
    """dist/pyodide: the interpreter, numpy, msgpack, our wheel, Jinja for the chat; all as memory, too."""
    member(NUMPY_SOURCES, NUMPY_SHA256, CACHE / NUMPY)
    pure = [_without_binaries(path) for path in sorted(wheels_of(PURE_LOCK, *PURE_TARGET).glob("*.whl"))]
    interpreter = [NODE_MODULES / "pyodide" / name for name in INTERPRETER]
    libraries = [CACHE / NUMPY, *_wheels(LOCK), *pure, NODE_MODULES / "pyodide" / LIBRARY]
    files = [*_compiled_libraries(libraries), *_compiled(COMPILED, [wheel()]), *interpreter]
    _lay_out(PYODIDE, files, lambda part: add_snapshot(part, INTERPRETER))


def build_tests_distribution() -> None:
    """.cache/pyodide-tests: what dist/pyodide holds and pytest, without the interpreter."""
    loaded = [path for path in PYODIDE.glob("*.whl") if path.name != NUMPY]  # a tab's lacks what tests use
    wheels = [*loaded, CACHE / NUMPY, *_wheels(TESTS_LOCK)]
    _lay_out(PYODIDE_TESTS, wheels)


def _wheels(lock: Path) -> list[Path]:
    return sorted(wheels_of(lock, *TARGET).glob("*.whl"))


def _compiled_libraries(paths: list[Path]) -> list[Path]:
    """``_compiled`` of what changes seldom, one for all clones of this user."""
    total = hashlib.sha256(COMPILER.read_bytes() + (NODE_MODULES / "pyodide" / "package.json").read_bytes())
    for path in paths:
        total.update(f"{path.name} {sha256_of(path)}".encode())
    folder = shared_cache() / "compiled" / total.hexdigest()[:16]
    with locked(folder.with_suffix(".lock")):
        return [folder / path.name for path in paths] if folder.is_dir() else _compiled(folder, paths)


def _compiled(folder: Path, paths: list[Path]) -> list[Path]:
    """The same files, now in ``folder``, with byte code for Python, made by the tab's own interpreter."""
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    call(NODE, COMPILER, NODE_MODULES / "pyodide", part, *paths)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return [folder / path.name for path in paths]


def _without_binaries(path: Path) -> Path:
    """The wheel itself if it is pure, else one in .cache that holds only its Python."""
    if path.name.endswith("-none-any.whl"):
        return path
    name, version, *_ = path.name.split("-")
    pure = CACHE / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(pure, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith((".so", ".c", ".pyi", "/RECORD")):
                continue
            if entry.filename.endswith(".dist-info/WHEEL"):
                data = b"Wheel-Version: 1.0\nGenerator: kwaainet\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            target.writestr(entry, data)
    return pure


def _lay_out(folder: Path, files: Iterable[Path], finish: Callable[[Path], None] = lambda part: None) -> None:
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for path in files:
        place(path, part / path.name)
    _write_lock(part)
    finish(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _write_lock(folder: Path) -> None:
    """pyodide-lock.json for exactly the wheels in ``folder``; the ABI block is that of the npm package."""
    official = json.loads((NODE_MODULES / "pyodide" / "pyodide-lock.json").read_text())
    packages = dict(_entry(path) for path in sorted(folder.glob("*.whl")))
    for entry in packages.values():
        entry["depends"] = [name for name in entry["depends"] if name in packages]
    lock = {"info": official["info"], "packages": packages}
    (folder / "pyodide-lock.json").write_text(json.dumps(lock, indent=1, sort_keys=True) + "\n")


def _entry(path: Path) -> tuple[str, dict]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        metadata_name = next(name for name in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        metadata = Parser().parsestr(archive.read(metadata_name).decode())
    requirements = [text for text in metadata.get_all("Requires-Dist", []) if "extra ==" not in text]
    tops = {
        name.split("/")[0].removesuffix(".py")
        for name in names
        if not re.match(r"[^/]+\.(dist-info|data|libs)/", name)
    }
    return _normal(metadata["Name"]), {
        "name": metadata["Name"],
        "version": metadata["Version"],
        "file_name": path.name,
        "install_dir": "site",
        "sha256": sha256_of(path),
        "package_type": "package",
        "imports": sorted(tops),
        "depends": sorted({_normal(re.match(r"[\w.-]+", text)[0]) for text in requirements}),
        "unvendored_tests": False,
    }


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

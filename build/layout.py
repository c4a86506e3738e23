"""Holds the tree to its layout: python build/layout.py prints every breach and ends with 1 if there is one.

Rule of the file: it looks at names and sizes, never at meaning; ruff, mypy, import-linter and
dependency-cruiser look at the rest.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]

SOURCES = PurePosixPath("pysrc/kwaainet")
UNIT_TESTS = PurePosixPath("tests/unit")

TOP_LEVEL = {"web", "pysrc", "build", "tests", "package.json", "pyproject.toml", "README.md"}
TOP_LEVEL |= {"LICENSE", "Makefile", "package-lock.json", "tsconfig.json", ".ci", ".gitignore", ".npmrc"}
CODE = {".py", ".ts", ".mjs", ".js", ".css", ".html", ".sh"}
MAX_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_BYTES = 1 << 20
VAGUE = re.compile(r"(^|_)(utils?|helpers?|common|core|managers?|services?|misc)(_|$)", re.IGNORECASE)
VAGUE_CLASS = re.compile(r"(Utils?|Helpers?|Common|Core|Managers?|Services?|Misc)$")

Check = Callable[[list[PurePosixPath]], Iterator[str]]


def top_level_is_fixed(files: list[PurePosixPath]) -> Iterator[str]:
    """No new folder or file at the root without a word about it here."""
    for name in sorted({file.parts[0] for file in files} - TOP_LEVEL):
        yield f"{name}: does not belong at the top level"


def tests_mirror_sources(files: list[PurePosixPath]) -> Iterator[str]:
    """a/b.py is tested by a/test_b.py, and nothing else stands among the unit tests."""
    wanted = {
        UNIT_TESTS / file.relative_to(SOURCES).with_name(f"test_{file.name}"): file
        for file in files
        if file.is_relative_to(SOURCES) and file.suffix == ".py" and file.name != "__init__.py"
    }
    present = {file for file in files if file.is_relative_to(UNIT_TESTS) and file.name.startswith("test_")}
    for test, source in wanted.items():
        if test not in present:
            yield f"{source}: has no {test}"
    for test in present - wanted.keys():
        if not _tests_a_package(test, files):
            yield f"{test}: tests no file of that name under {SOURCES}"


def _tests_a_package(test: PurePosixPath, files: list[PurePosixPath]) -> bool:
    name = test.stem.removeprefix("test_")
    return SOURCES / test.relative_to(UNIT_TESTS).parent / name / "__init__.py" in files


def files_are_short(files: list[PurePosixPath]) -> Iterator[str]:
    """A file that nobody wants to read in one go is two files."""
    for file in files:
        if file.suffix in CODE and (lines := len(_text(file).splitlines())) > MAX_LINES:
            yield f"{file}: {lines} lines; {MAX_LINES} are allowed"


def functions_are_short(files: list[PurePosixPath]) -> Iterator[str]:
    """The same for functions."""
    for file in files:
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    yield f"{file}:{node.lineno}: {node.name} has {lines} lines, not {MAX_FUNCTION_LINES}"


def names_say_something(files: list[PurePosixPath]) -> Iterator[str]:
    """No drawer for whatever has no better place."""
    for file in files:
        for part in file.parts:
            if VAGUE.search(part.split(".")[0]):
                yield f"{file}: {part!r} says nothing; name what is in it"
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.ClassDef) and VAGUE_CLASS.search(node.name):
                yield f"{file}:{node.lineno}: class {node.name} says nothing; name what it is"


def files_are_small(files: list[PurePosixPath]) -> Iterator[str]:
    """Models, wheels and recordings are fetched or made, not kept in git."""
    for file in files:
        if (size := (ROOT / file).stat().st_size) > MAX_BYTES:
            yield f"{file}: {size} bytes; {MAX_BYTES} are allowed in git"


CHECKS: tuple[Check, ...] = (
    top_level_is_fixed,
    tests_mirror_sources,
    files_are_short,
    functions_are_short,
    names_say_something,
    files_are_small,
)


def _text(file: PurePosixPath) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def _tree(file: PurePosixPath) -> ast.Module:
    return ast.parse(_text(file) if file.suffix == ".py" else "", str(file))


def main() -> int:
    """Run every check over the files that git knows or would know."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [PurePosixPath(line) for line in listed.stdout.splitlines() if (ROOT / line).is_file()]
    breaches = [text for check in CHECKS for text in check(files)]
    for text in breaches:
        print(text, file=sys.stderr)
    print(f"layout: {len(files)} files, {len(breaches)} breaches")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())

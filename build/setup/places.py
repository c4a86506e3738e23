"""Where everything lies: what the set-up makes in the clone, and what clones of one user share.

Rule of the file: paths only; nothing is made here but the shared cache's folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"  # third parties' things, and stamps
DIST = ROOT / "dist"  # what is built from this repository

VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
NODE = VENV / "bin" / "node"
NPM = VENV / "bin" / "npm"
REQUIREMENTS = ROOT / "build" / "requirements"
NODE_MODULES = ROOT / "node_modules"

CHROMIUM = CACHE / "chromium"
MODELS = CACHE / "models"
PEERS = CACHE / "peers"  # a virtual environment with the real hivemind and petals
ZIG = CACHE / "zig"  # the compiler of web/kernels
STAMPS = CACHE / "stamps"
DEBIAN = CACHE / "debian"  # servers that the tests put a relay behind or beside

PYODIDE = DIST / "pyodide"  # what a tab loads
PYODIDE_TESTS = CACHE / "pyodide-tests"  # the same and pytest, for tests/pyodide
WEB = ROOT / "web" / "dist"
WEB_WHEEL = DIST / "web-wheel"  # what the wheel of the page is built from


def shared_cache() -> Path:
    """The folder of downloads that all clones of this user share, or the clone's own where that fails.

    $KWAAINET_CACHE, else kwaainet in $XDG_CACHE_HOME or ~/.cache.
    """
    named = os.environ.get("KWAAINET_CACHE")
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kwaainet"
    folder = Path(named) if named else usual
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder.resolve()
        reason = "it cannot be written"
    except OSError as error:
        reason = str(error.strerror)
    print(f"note: downloads are kept in {CACHE / 'shared'}, not in {folder}: {reason}", file=sys.stderr)
    own = CACHE / "shared"
    own.mkdir(parents=True, exist_ok=True)
    return own

"""The real peers live in an environment of their own; without it these tests fail, they do not skip."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

PEERS_PYTHON = Path(__file__).parents[2] / ".cache" / "peers" / "bin" / "python"


@pytest.fixture(scope="session", autouse=True)
def peers_python() -> Path:
    """The interpreter that has the unmodified hivemind and petals."""
    if not PEERS_PYTHON.is_file():
        pytest.fail("the real hivemind and petals are not installed; run: make peers")
    versions = "import importlib.metadata as m; print(m.version('hivemind'), m.version('petals'))"
    said = subprocess.run([PEERS_PYTHON, "-c", versions], capture_output=True, text=True)
    assert said.stdout.split() == ["1.1.12", "2.2.0.post1"], said.stderr
    return PEERS_PYTHON

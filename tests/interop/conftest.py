"""The real peers live in an environment of their own; without it these tests fail, they do not skip."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from interop.cases import Case
from interop.running import OFFLINE, PEERS, started

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


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Small, random, of odd shape: grouped-query heads, untied head."""
    base = tmp_path_factory.mktemp("odd")
    folder = base / "odd"
    with started([PEERS_PYTHON, PEERS / "make_llama.py", folder], base, "make_llama", OFFLINE) as running:
        assert running.process.wait(120) == 0, running.tail()
    return Case(folder, folder, "odd-llama", 5)

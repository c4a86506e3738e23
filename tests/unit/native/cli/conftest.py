"""A built page and a tiny model on disk, for commands that need them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kwaainet.native.assets import VARIABLE


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Assets with nothing but an index."""
    folder = tmp_path / "assets"
    folder.mkdir()
    (folder / "index.html").write_text("<title>page</title>")
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


@pytest.fixture
def tiny_gguf(tmp_path: Path, write_gguf: Callable[..., Path], tiny_weights: Any) -> Path:
    """Two blocks, random weights."""
    return write_gguf(tmp_path / "tiny.gguf", tiny_weights)

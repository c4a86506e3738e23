"""A built page on disk, for commands that need one."""

from pathlib import Path

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

from pathlib import Path

import pytest

from kwaainet.errors import ConfigError
from kwaainet.native.assets import VARIABLE, checkout, find_assets


def test_a_named_folder_is_taken_and_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(ConfigError, match="make setup"):
        find_assets()
    (tmp_path / "index.html").touch()
    assert find_assets() == tmp_path


def test_the_tests_run_from_a_checkout() -> None:
    root = checkout()
    assert root is not None
    assert (root / "pyproject.toml").is_file()

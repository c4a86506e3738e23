import sys
from pathlib import Path

import pytest

from kwaainet.errors import ConfigError
from kwaainet.native.assets import VARIABLE, checkout, find_assets, installed


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


def test_the_wheel_of_the_page_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assets = tmp_path / "kwaainet_web" / "assets"
    assets.mkdir(parents=True)
    (tmp_path / "kwaainet_web" / "__init__.py").touch()
    (assets / "index.html").touch()
    assert installed() is None
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    assert find_assets() == installed() == assets
    del sys.modules["kwaainet_web"]


def test_without_any_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("kwaainet.native.assets.checkout", lambda: None)
    with pytest.raises(ConfigError, match=r"the page is not here; pip install 'kwaainet\[relay\]'"):
        find_assets()

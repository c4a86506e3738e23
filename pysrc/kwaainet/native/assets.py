"""Where the built web assets lie: named by hand, in the installed wheel kwaainet-web, or in a checkout.

Rule of the file: look in a fixed order, take the first that holds a page, or say where was looked.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from ..errors import ConfigError

VARIABLE = "KWAAINET_ASSETS"
_PACKAGE = Path(__file__).resolve().parent.parent


def checkout() -> Path | None:
    """The source checkout this package runs from, if it does."""
    root = _PACKAGE.parent.parent
    return root if (root / "pyproject.toml").is_file() and (root / "web").is_dir() else None


def installed() -> Path | None:
    """The folder in the wheel of the page (``build/web-wheel``), if that is installed."""
    try:
        return Path(str(resources.files("kwaainet_web") / "assets"))
    except ModuleNotFoundError:
        return None


def find_assets() -> Path:
    """The folder with ``index.html``; ``ConfigError`` if the page has not been built."""
    named, root = os.environ.get(VARIABLE), checkout()
    places = [Path(named)] if named else [installed(), root and root / "web" / "dist"]
    looked = [place for place in places if place is not None]
    for place in looked:
        if (place / "index.html").is_file():
            return place
    where = f" (looked in {', '.join(map(str, looked))})" if looked else ""
    raise ConfigError(
        f"the page is not here{where}; pip install 'kwaainet[relay]', or in a checkout: make setup"
    )

"""Where the built web assets lie: named by hand, beside an installed package, or in a source checkout.

Rule of the file: look in a fixed order, take the first that holds a page, or say where was looked.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConfigError

VARIABLE = "KWAAINET_ASSETS"
_PACKAGE = Path(__file__).resolve().parent.parent


def checkout() -> Path | None:
    """The source checkout this package runs from, if it does."""
    root = _PACKAGE.parent.parent
    return root if (root / "pyproject.toml").is_file() and (root / "web").is_dir() else None


def find_assets() -> Path:
    """The folder with ``index.html``; ``ConfigError`` if the page has not been built."""
    named = os.environ.get(VARIABLE)
    root = checkout()
    places = [Path(named)] if named else [_PACKAGE / "assets"] + ([root / "web" / "dist"] if root else [])
    for place in places:
        if (place / "index.html").is_file():
            return place
    looked = ", ".join(map(str, places))
    raise ConfigError(f"the page has not been built (looked in {looked}); run: make setup")

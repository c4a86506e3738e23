"""The JavaScript side: locked packages, the browser among them, and the web bundle."""

from __future__ import annotations

import os
import platform
import shutil
import sys

from places import CHROMIUM, DIST, NODE, NPM, PYTHON, ROOT, WEB, WEB_WHEEL
from steps import call, say


def install_packages() -> None:
    """node_modules from package-lock.json; npm checks every hash and runs no package's scripts."""
    call(NPM, "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund")


def unpack_chromium() -> None:
    """The headless Chromium of a locked package, where the package has one for this machine."""
    shutil.rmtree(CHROMIUM, ignore_errors=True)
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        say("    the locked Chromium is for Linux on x86-64; here the system's or $KWAAINET_CHROMIUM is used")
        CHROMIUM.mkdir(parents=True)
        return
    part = CHROMIUM.with_name("chromium.part")
    shutil.rmtree(part, ignore_errors=True)
    call(NODE, ROOT / "build" / "chromium.mjs", part)
    call(part / "headless-chromium", "--version", quiet=True)
    part.rename(CHROMIUM)


def bundle_web() -> None:
    """web/dist: the page, its workers and what they load."""
    call(NODE, ROOT / "build" / "web.mjs")


def build_web_wheel() -> None:
    """dist/kwaainet_web-VERSION-py3-none-any.whl: web/dist without source maps, for installed relays.

    What browsers are sent compressed only is kept so.
    """
    for old in DIST.glob("kwaainet_web-*.whl"):
        old.unlink()
    shutil.rmtree(WEB_WHEEL, ignore_errors=True)
    shutil.copytree(ROOT / "build" / "web-wheel", WEB_WHEEL)
    assets = WEB_WHEEL / "kwaainet_web" / "assets"
    shutil.copytree(
        WEB, assets, ignore=shutil.ignore_patterns("*.map", "snapshot.bin"), copy_function=os.link
    )
    call(
        PYTHON,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        DIST,
        quiet=True,
        folder=WEB_WHEEL,
    )
    shutil.rmtree(WEB_WHEEL)

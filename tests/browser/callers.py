"""Peers in pages of their own that call and echo: tabs without Python, for what lies between tabs.

Rule of the file: each page runs the network worker of a contributing tab under an identity of the
moment; what it can do is in compliance/caller.ts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser.tabs import eventually
from interop.running import ROOT, relay

from kwaainet.native.assets import find_assets
from kwaainet.native.chromium import Browser
from kwaainet.native.page import Page

HERE = Path(__file__).parent / "compliance"
NODE = ROOT / ".venv" / "bin" / "node"
BUNDLE_TIMEOUT = 120.0


def build_site(site: Path) -> Path:
    """The built page's folder with the pages for tests in ``compliance`` beside it."""
    shutil.copytree(find_assets(), site, copy_function=link_or_copy)
    pages = site / "compliance"
    command = [NODE, HERE / "bundle.mjs", pages]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BUNDLE_TIMEOUT)
    assert done.returncode == 0, done.stderr
    for name in ("index.html", "caller.html", "suites.py"):
        shutil.copy(HERE / name, pages)
    shutil.copy(ROOT / "tests" / "vectors" / "architectures.json", pages)
    return site


def link_or_copy(source: str, target: str) -> None:
    """A hard link where the file system allows: the assets are big."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextmanager
def calling_relay(folder: Path, *flags: str | Path) -> Iterator[dict[str, Any]]:
    """A relay whose origin has the callers' page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KWAAINET_ASSETS", str(build_site(folder / "web")))
        with relay(folder, *flags) as ready:
            yield ready


class Caller:
    """One such peer: its page, and its id."""

    def __init__(self, page: Page, peer: str) -> None:
        self.page, self.peer = page, peer

    @classmethod
    async def begin(cls, browser: Browser, ready: dict[str, Any], **options: Any) -> Caller:
        """Take a slot on the relay. ``options``: those of caller.ts."""
        options["relays"] = [address for address in ready["maddrs"] if "/ws/" in address]
        page = await browser.open_page(f"{ready['http']}compliance/caller.html")
        return cls(page, await page.evaluate(f"begin({json.dumps(options)})"))

    async def call(self, peer: str, size: int = 1000) -> float:
        """A unary echo; ms."""
        return float(await self.page.evaluate(f"call({json.dumps(peer)}, {size})"))

    async def open(self, peer: str, *protocol: str) -> int:
        """A stream to ``peer``, of the callers' own echo unless a protocol is named."""
        words = ", ".join(map(json.dumps, (peer, *protocol)))
        return int(await self.page.evaluate(f"open({words})"))

    async def echo(self, stream: int, size: int = 1000, count: int = 1) -> list[float]:
        """Messages there and back, one after the other; ms of each."""
        return list(await self.page.evaluate(f"echo({stream}, {size}, {count})"))

    async def ending(self, stream: int) -> str:
        """Wait until a stream ends; how it did."""
        return str(await self.page.evaluate(f"ending({stream})"))

    async def cut(self) -> None:
        """Break this page's direct connections without a word to its network worker."""
        await self.page.evaluate("cut()")

    async def connection(self, peer: str) -> dict[str, Any] | None:
        """What the network worker last reported of ``peer``."""
        found: dict[str, Any] | None = await self.page.evaluate(f"connection({json.dumps(peer)})")
        return found

    async def reached_by(self, peer: str, kind: str) -> None:
        """Wait until ``peer`` is reached by relay, circuit or webrtc."""

        async def is_so() -> bool:
            found = await self.connection(peer)
            return found is not None and found["kind"] == kind

        await eventually(is_so)

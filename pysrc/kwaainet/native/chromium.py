"""A real Chromium, found and started from asyncio: what ``kwaainet tab`` and the browser tests stand on.

Rule of the file: the process is always reaped and its temporary profile removed, however the end comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..errors import ConfigError, LocalError
from .devtools import DevTools, JsonObject
from .page import Page

log = logging.getLogger(__name__)

__all__ = ["Browser", "Page", "find_chromium"]

ENVIRONMENT_VARIABLE = "KWAAINET_CHROMIUM"
SYSTEM_NAMES = ("google-chrome-stable", "google-chrome", "chromium", "chromium-browser", "microsoft-edge")
MACOS_BROWSERS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
BUNDLED = Path(".cache/chromium/headless-chromium")  # what `make setup` unpacks, from the repository's root

FLAGS = (
    "--enable-unsafe-webgpu",  # WebGPU on SwiftShader where there is no GPU
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-sync",
    "--disable-quic",
    "--disable-dev-shm-usage",  # a container's /dev/shm holds 64 MB, a tab's weights more
    "--metrics-recording-only",
    "--no-pings",
    "--password-store=basic",
    "--use-mock-keychain",
    # A contributing tab works while nobody looks at it.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
)
START_TIMEOUT = 60.0  # a cold, loaded machine; a warm one takes 0.3 s
STOP_TIMEOUT = 5.0


def find_chromium(explicit: str | Path | None = None, *, headless: bool = True) -> Path:
    """The browser to start: ``explicit``, then $KWAAINET_CHROMIUM, then the system's, then the unpacked one.

    The unpacked one has no window, so ``headless=False`` never finds it.
    """
    for origin, named in (
        ("--browser", explicit),
        (ENVIRONMENT_VARIABLE, os.environ.get(ENVIRONMENT_VARIABLE)),
    ):
        if named:
            if found := shutil.which(named):
                return Path(found)
            raise ConfigError(f"{origin} names {str(named)!r}, which is no program that can be started")
    return next(_candidates(headless), None) or _not_found(headless)


def _candidates(headless: bool) -> Iterator[Path]:
    for name in SYSTEM_NAMES + (MACOS_BROWSERS if sys.platform == "darwin" else ()):
        if found := shutil.which(name):
            yield Path(found)
    if headless:
        roots = (Path.cwd(), Path(__file__).resolve().parents[3])
        yield from (root / BUNDLED for root in roots if (root / BUNDLED).is_file())


def _not_found(headless: bool) -> Path:
    remedy = "run `make setup` in the repository" if headless else "install one"
    raise ConfigError(f"no Chrome or Chromium found; {remedy}, or set {ENVIRONMENT_VARIABLE} to one's path")


class Browser:
    """A running Chromium, for ``async with await Browser.launch() as browser``."""

    def __init__(self, process: asyncio.subprocess.Process, devtools: DevTools, scratch: Path | None) -> None:
        self._process = process
        self._devtools = devtools
        self._scratch = scratch

    @classmethod
    async def launch(
        cls,
        chromium: str | Path | None = None,
        *,
        headless: bool = True,
        flags: Sequence[str] = (),
        profile: Path | None = None,
    ) -> Browser:
        """Start a browser and connect to it.

        ``profile`` is kept after ``close()`` (identity and weights live there); without one a
        temporary profile is made and removed. ``flags`` are added to the command line.
        """
        binary = find_chromium(chromium, headless=headless)
        scratch = None if profile else Path(tempfile.mkdtemp(prefix="kwaainet-chromium-"))
        folder = profile or scratch
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        port_file = folder / "DevToolsActivePort"
        port_file.unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            binary,
            *_command_line(headless, folder, flags),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # one process group to end, and no terminal signal reaches it before us
        )
        try:
            devtools = await _connect(process, port_file, binary)
        except BaseException:
            await _reap(process)
            _remove(scratch)
            raise
        return cls(process, devtools, scratch)

    async def new_page(self, *, watch_network: bool = False) -> Page:
        """A blank tab, attached: listeners can be set before ``page.goto(url)``.

        ``watch_network``: have its bytes counted and its requests listed.
        """
        target = await self._devtools.call("Target.createTarget", {"url": "about:blank"})
        return await Page.attach(self._devtools, target["targetId"], watch_network)

    async def open_page(
        self,
        url: str,
        on_event: Mapping[str, Callable[[Any], None]] | None = None,
        *,
        watch_network: bool = False,
    ) -> Page:
        """A tab at ``url``, loaded; ``on_event`` maps CustomEvents to callbacks (``Page.on_event``)."""
        page = await self.new_page(watch_network=watch_network)
        for name, callback in (on_event or {}).items():
            await page.on_event(name, callback)
        await page.goto(url)
        return page

    async def version(self) -> str:
        """Product and version, such as ``HeadlessChrome/153.0.8010.0``."""
        return str((await self._devtools.call("Browser.getVersion"))["product"])

    async def command(self, method: str, params: JsonObject | None = None) -> JsonObject:
        """One DevTools command to the browser itself; ``LocalError`` if it refuses."""
        return await self._devtools.call(method, params)

    @property
    def process_id(self) -> int:
        """The browser's process, which leads a process group of its own."""
        return self._process.pid

    async def close(self) -> None:
        """End the browser: asked first so that its profile is written, killed when it lingers."""
        with contextlib.suppress(LocalError):
            await self._devtools.call("Browser.close", timeout=STOP_TIMEOUT)
        await self._devtools.close()
        await _reap(self._process)
        _remove(self._scratch)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _command_line(headless: bool, profile: Path, flags: Sequence[str]) -> list[str]:
    command = [*FLAGS, f"--user-data-dir={profile}"]
    if headless:
        command.append("--headless=new")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--no-sandbox")  # Chromium's sandbox does not start as root
    return [*command, *flags, "about:blank"]


async def _connect(process: asyncio.subprocess.Process, port_file: Path, binary: Path) -> DevTools:
    """Await the port the browser chose; it writes the file once it listens."""
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT
    while asyncio.get_running_loop().time() < deadline:
        if process.returncode is not None:
            raise LocalError(
                f"{binary} ended at once (exit {process.returncode}): {await _complaint(process)}"
            )
        with contextlib.suppress(FileNotFoundError, ValueError):
            port, path = port_file.read_text().split("\n")[:2]
            devtools = await DevTools.connect(f"ws://127.0.0.1:{int(port)}{path}")
            asyncio.create_task(_drain(process)).add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )
            return devtools
        await asyncio.sleep(0.05)
    raise LocalError(f"{binary} did not open its DevTools port within {START_TIMEOUT:g} s")


async def _complaint(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    text = (await process.stderr.read()).decode(errors="replace").strip()
    return text[-2000:] or "it said nothing"


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Read the browser's own complaints so that its pipe never fills; they matter only when debugging."""
    assert process.stderr is not None
    async for line in process.stderr:
        log.debug("chromium: %s", line.decode(errors="replace").rstrip())


async def _reap(process: asyncio.subprocess.Process) -> None:
    """Await the end of the browser, killing its whole process group when it takes too long."""
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT)
    except TimeoutError:
        log.warning("Chromium did not end within %g s and is killed", STOP_TIMEOUT)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _remove(scratch: Path | None) -> None:
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)

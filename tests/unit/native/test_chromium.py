"""Finding, starting and ending a real Chromium."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from kwaainet.errors import ConfigError, LocalError
from kwaainet.native import chromium
from kwaainet.native.chromium import Browser, find_chromium


def program(path: Path, script: str = "exit 0") -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def await_end_of_group(process_id: int) -> None:
    """Returns once no process of the group is left; its orphans are the init process's to collect."""
    deadline = time.monotonic() + 60
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process_id, 0)
            time.sleep(0.01)
        pytest.fail("the browser left processes behind")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any browser: an empty PATH and an empty folder to stand in."""
    monkeypatch.delenv(chromium.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(chromium, "BUNDLED", Path("nowhere"))
    monkeypatch.setattr(chromium, "MACOS_BROWSERS", ())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_explicit_browser_wins_over_the_environments_over_the_systems(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = program(bare / "chromium")
    assert find_chromium() == system
    monkeypatch.setenv(chromium.ENVIRONMENT_VARIABLE, str(program(bare / "mine")))
    assert find_chromium() == bare / "mine"
    assert find_chromium(program(bare / "explicit")) == bare / "explicit"


def test_the_unpacked_browser_is_the_last_resort_and_has_no_window(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chromium, "BUNDLED", Path("unpacked"))
    program(bare / "unpacked")
    assert find_chromium() == bare / "unpacked"
    with pytest.raises(ConfigError, match="install one"):
        find_chromium(headless=False)
    system = program(bare / "google-chrome")
    assert find_chromium() == system


def test_no_browser_says_what_to_do(bare: Path) -> None:
    with pytest.raises(ConfigError, match="make setup"):
        find_chromium()


def test_a_browser_that_is_none_is_named(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--browser names '/no/such'"):
        find_chromium("/no/such")
    monkeypatch.setenv(chromium.ENVIRONMENT_VARIABLE, "/no/such")
    with pytest.raises(ConfigError, match="KWAAINET_CHROMIUM names"):
        find_chromium()


def test_a_browser_that_ends_at_once_is_quoted(tmp_path: Path) -> None:
    broken = program(tmp_path / "broken", "echo missing libfoo >&2; exit 127")
    with pytest.raises(LocalError, match=r"ended at once \(exit 127\): missing libfoo"):
        asyncio.run(Browser.launch(broken))


def test_a_browser_that_never_listens_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chromium, "START_TIMEOUT", 0.2)
    monkeypatch.setattr(chromium, "STOP_TIMEOUT", 0.1)
    start, started = asyncio.create_subprocess_exec, list[asyncio.subprocess.Process]()

    async def noted(*command: Any, **how: Any) -> asyncio.subprocess.Process:
        started.append(await start(*command, **how))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    with pytest.raises(LocalError, match="did not open its DevTools port"):
        asyncio.run(Browser.launch(program(tmp_path / "silent", "exec sleep 100")))
    assert [process.returncode for process in started] == [-signal.SIGKILL]
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)


def test_a_real_browser_starts_and_leaves_nothing_behind() -> None:
    async def main() -> tuple[int, Path]:
        async with await Browser.launch() as browser:
            assert "Chrom" in await browser.version()
            assert (await browser.command("Browser.getVersion"))["product"] == await browser.version()
            scratch = browser._scratch
            assert scratch is not None
            assert scratch.is_dir()
            return browser.process_id, scratch

    process_id, scratch = asyncio.run(main())
    assert not scratch.exists()
    await_end_of_group(process_id)


def test_a_kept_profile_remembers(tmp_path: Path, site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chromium, "STOP_TIMEOUT", 60.0)  # one that is killed has not written all of it

    async def visit(expression: str) -> object:
        async with await Browser.launch(profile=tmp_path / "profile") as browser:
            page = await browser.open_page(site)
            return await page.evaluate(expression)

    asyncio.run(visit("localStorage.setItem('who', 'me')"))
    assert asyncio.run(visit("localStorage.getItem('who')")) == "me"


def test_a_killed_browser_ends_its_pages_and_is_still_reaped() -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            page = await browser.open_page("data:text/html,x")
            os.killpg(browser.process_id, signal.SIGKILL)
            await asyncio.wait_for(page.ended, 60)
            with pytest.raises(LocalError):
                await page.evaluate("1")

    asyncio.run(main())

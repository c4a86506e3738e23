"""Python users in the browser: ``micropip.install("kwaainet")`` in a Pyodide not of ours, and a chat."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from browser.hosting import Host, only_ours, shows
from browser.tabs import eventually, open_tab
from browser.talking import PREFIX, generated
from interop.running import ROOT

from kwaainet.native.chromium import Browser

SOURCES = Path(__file__).parent / "notebook"
PYODIDE = ROOT / "node_modules" / "pyodide"
WHEELS = ROOT / ".cache" / "pyodide-tests"
INTERPRETER = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip")
NOWHERE = "http://localhost:1"  # of visit.py
PACKAGES = ("micropip", "packaging", "numpy", "msgpack")  # that every Pyodide distribution has


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with Pyodide as npm has it, and a lock of few packages that knows nothing of ours."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "pyodide").mkdir()
    for path in SOURCES.iterdir():
        (folder / path.name).symlink_to(path)
    lock = json.loads((WHEELS / "pyodide-lock.json").read_text())
    lock["packages"] = {name: lock["packages"][name] for name in PACKAGES}
    (folder / "pyodide" / "pyodide-lock.json").write_text(json.dumps(lock))
    wheels = [WHEELS / entry["file_name"] for entry in lock["packages"].values()]
    for path in (*wheels, *(PYODIDE / name for name in INTERPRETER)):
        (folder / "pyodide" / path.name).symlink_to(path)
    return folder


def policy(origin: dict[str, Any]) -> str:
    own = origin["http"].rstrip("/")
    return (
        f"default-src 'none'; script-src 'self' {own} {NOWHERE} 'wasm-unsafe-eval'; "
        f"worker-src 'self' blob: {own} {NOWHERE}; connect-src 'self' {own} ws://127.0.0.1:*"
    )


def test_micropip_installs_the_client_and_it_talks(
    talking_origin: dict[str, Any], talking_model: Path, site: Path
) -> None:
    """On the page, with WebRTC at hand, and in a worker, where there is none."""

    async def main() -> None:
        host = Host(policy(talking_origin), folder=site)
        async with host.open(), await Browser.launch() as browser:
            server = await open_tab(browser, talking_origin["http"], backend="wasm")
            await server.contribute()
            expected = await generated(talking_model, PREFIX, talking_origin["tcp"], "Hi", 16)
            for place in ("page", "worker"):
                page = await browser.new_page(watch_network=True)
                await page.goto(f"{host.url}/index.html?in={place}&relay={talking_origin['http']}")
                await shows(page, "document.querySelector('output').textContent", "}")
                found = json.loads(await page.evaluate("document.querySelector('output').textContent"))
                check(found, expected)
                page.requests[:] = [url for url in page.requests if not url.startswith(NOWHERE)]
                only_ours(page, host, talking_origin)
                await page.close()

            async def idle() -> bool:
                sessions = [event["sessions"] for event in server.events if event["event"] == "serving"]
                return sessions[-1] == 0

            await eventually(idle)

    asyncio.run(main())


def check(found: dict[str, Any], expected: str) -> None:
    assert "".join(found["pieces"]) == found["whole"] == expected
    assert len(found["pieces"]) > 1, "it comes as it is computed"
    assert found["usage"] == [16, "length"]
    assert found["refused"].startswith("InputError: max_tokens is -1")
    assert found["unknown"].startswith("InputError: logprobs")
    assert found["late"].startswith("TimeoutError")
    assert found["after"] == 4
    assert found["closed"].startswith("UsageError")
    assert found["loaded"] > 1e6, "what is loaded is told"
    assert PREFIX in found["other"]
    assert found["nowhere"].startswith(f"Unreachable: {NOWHERE}/sdk/python.js")

"""The Engine port's compliance suite in a real Chromium, against the numpy reference in the same page."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kwaainet.native.chromium import Browser
from kwaainet.testing.engine_compliance import CHECKS

ROOT = Path(__file__).parents[2]
TIMEOUT = 600.0  # SwiftShader compiles for seconds per shape; a loaded machine takes several times that


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> str:
    """web/bridge/engine.ts and all it needs as one module."""
    bundle = tmp_path_factory.mktemp("bundle") / "engine.js"
    esbuild = ROOT / "node_modules" / ".bin" / "esbuild"
    flags = ["--bundle", "--format=esm", "--target=es2023", "--conditions=browser", "--log-level=warning"]
    subprocess.run([esbuild, "web/bridge/engine.ts", *flags, f"--outfile={bundle}"], cwd=ROOT, check=True)
    return bundle.read_text()


@pytest.mark.parametrize(("backend", "threads"), [("wasm", 1), ("wasm", 2), ("webgpu", 1)])
def test_the_engine_complies_with_its_port(
    origin: dict[str, Any], code: str, backend: str, threads: int
) -> None:
    async def main() -> int:
        async with await Browser.launch() as browser:
            page = await browser.new_page()
            await page.goto(origin["http"])
            function = (Path(__file__).parent / "engine_page.js").read_text().rstrip()
            arguments = f"{json.dumps(code)}, {json.dumps(backend)}, {threads}"
            call = f"(\n{function})({arguments})"
            return int(await page.evaluate(call, timeout=TIMEOUT))

    assert asyncio.run(main()) == len(CHECKS)

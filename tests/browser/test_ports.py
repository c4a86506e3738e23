"""A tab's adapters pass the suites of their ports, in a tab: the same checks as every other runtime."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.callers import build_site
from interop.running import relay

from kwaainet.native.chromium import Browser
from kwaainet.testing import compliance, gradients_compliance
from kwaainet.testing.engine_compliance import CHECKS

SUITE_TIMEOUT = 600.0  # seconds; a loaded machine, and SwiftShader, are slow

Suite = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """Runs a suite in a page of its own and returns what became of each check."""
    folder = tmp_path_factory.mktemp("site")
    site = build_suites(folder / "web")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KWAAINET_ASSETS", str(site))
        with relay(folder) as ready:

            def run(name: str, **request: Any) -> dict[str, str]:
                return asyncio.run(run_suite(ready, suite=name, **request))

            yield run


def build_suites(site: Path) -> Path:
    """The site with a file to be read by ranges beside it."""
    sample = build_site(site) / "sample" / compliance.SAMPLE_FILE
    sample.parent.mkdir(parents=True)
    sample.write_bytes(compliance.SAMPLE)
    return site


async def run_suite(ready: dict[str, Any], **request: Any) -> dict[str, str]:
    request["relays"] = [address for address in ready["maddrs"] if "/ws/" in address]
    request.setdefault("hosts", 0)
    async with await Browser.launch() as browser:
        page = await browser.open_page(f"{ready['http']}compliance/index.html")
        outcomes = await page.evaluate(f"run({json.dumps(request)})", timeout=SUITE_TIMEOUT)
        return dict(json.loads(outcomes))


def all_passed(outcomes: dict[str, str], names: list[str]) -> None:
    assert list(outcomes) == names, "every check must have run"
    failed = {name: outcome for name, outcome in outcomes.items() if outcome != "passed"}
    assert not failed, "\n\n".join(f"{name}:\n{outcome}" for name, outcome in failed.items())


def names_of(checks: Any) -> list[str]:
    return [check.__name__ for check in checks]


def test_host(suite: Suite) -> None:
    """Two hosts, each a network worker, that reach each other through a relay."""
    all_passed(suite("host", hosts=2), names_of(compliance.HOST_CHECKS))


def test_store(suite: Suite) -> None:
    all_passed(suite("store"), names_of(compliance.STORE_CHECKS))


def test_source(suite: Suite) -> None:
    all_passed(suite("source"), names_of(compliance.SOURCE_CHECKS))


@pytest.mark.parametrize(("backend", "threads"), [("wasm", 1), ("wasm", 2), ("webgpu", 1)])
def test_engine(suite: Suite, backend: str, threads: int) -> None:
    """Every one of onnxruntime's exports that web/bridge/engine_wasm.ts calls is called here."""
    all_passed(suite("engine", backend=backend, threads=threads), names_of(CHECKS.values()))


def test_gradients(suite: Suite) -> None:
    all_passed(suite("gradients", backend="wasm", threads=1), list(gradients_compliance.CHECKS))

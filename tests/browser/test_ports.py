"""A tab's adapters pass the suites of their ports, in a tab: the same checks as every other runtime.

On the emulated graphics device compiling shaders takes most of the time, a minute of a processor for all of
its checks: ``make nightly`` runs them all, ``make test`` those that ``test_webgpu.py`` does not show as well.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.callers import build_site
from interop.running import ROOT, relay
from nightly.sizes import whole

from kwaainet.native.chromium import Browser
from kwaainet.testing import compliance, gradients_compliance
from kwaainet.testing.engine_compliance import CHECKS, DEVICE_CHECKS

CASES = list(json.loads((ROOT / "tests" / "vectors" / "architectures.json").read_text())["cases"])
SUITE_TIMEOUT = 900.0  # seconds; a loaded machine, and SwiftShader, are slow

# By day, of a graphics device: what no session of test_webgpu.py does. Prompts and steps, batches, reordering
# and rolling back are there; what is refused, and filling again after it, the suite of the kernels shows.
BY_DAY = (
    "arguments_and_results_are_not_shared",
    "parts_of_the_span_join",
    "steps_of_many_caches_match_their_own_runs",
    "quantized_weights_compute_what_their_numbers_do",  # which closes the engine and fills it again
)
# One architecture for each thing that its graph may have beside a Llama's: a window and norms of q and k; by
# night also bias, a part that is rotated, and experts. That the graphs are right shows on the processor.
ARCHITECTURES = ["gemma3", *(["qwen2", "phi3-partial", "mixtral"] if whole() else [])]

Suite = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """Runs a suite in the page of this module and returns what became of each check."""
    folder = tmp_path_factory.mktemp("site")
    site = build_suites(folder / "web")
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setenv("KWAAINET_ASSETS", str(site))
        with relay(folder) as ready:
            browser = runner.run(Browser.launch())
            page = runner.run(browser.open_page(f"{ready['http']}compliance/index.html"))
            relays = [address for address in ready["maddrs"] if "/ws/" in address]

            def run(name: str, **request: Any) -> dict[str, str]:
                asked = json.dumps({"suite": name, "relays": relays, "hosts": 0, **request})
                outcomes = runner.run(page.evaluate(f"run({asked})", timeout=SUITE_TIMEOUT))
                return dict(json.loads(outcomes))

            try:
                yield run
            finally:
                runner.run(browser.close())


def build_suites(site: Path) -> Path:
    """The site with a file to be read by ranges beside it."""
    sample = build_site(site) / "sample" / compliance.SAMPLE_FILE
    sample.parent.mkdir(parents=True)
    sample.write_bytes(compliance.SAMPLE)
    (numpy,) = (ROOT / ".cache").glob("numpy-*.whl")
    shutil.copy(numpy, site / "compliance" / "numpy.whl")
    return site


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


@pytest.mark.parametrize("threads", [1, 2])
def test_engine(suite: Suite, threads: int) -> None:
    all_passed(suite("engine", backend="wasm", threads=threads), names_of(CHECKS.values()))


def test_engine_on_a_graphics_device(suite: Suite) -> None:
    checks = [name for name in DEVICE_CHECKS if whole() or name in BY_DAY]
    assert whole() or len(checks) == len(BY_DAY)
    all_passed(suite("device", backend="webgpu", threads=1, cases=checks), checks)


def test_every_architecture_on_the_kernels(suite: Suite) -> None:
    """Tiny models, each beside Hugging Face's numbers."""
    all_passed(suite("architectures", backend="wasm", threads=1, cases=CASES), CASES)


def test_architectures_on_a_graphics_device(suite: Suite) -> None:
    all_passed(suite("architectures", backend="webgpu", threads=1, cases=ARCHITECTURES), ARCHITECTURES)


def test_capped_scores_are_refused_on_a_graphics_device(suite: Suite) -> None:
    """onnxruntime-web leaves the cap out of its attention there; the device's self-test finds that."""
    outcome = suite("architectures", backend="webgpu", threads=1, cases=["gemma2"])["gemma2"]
    assert "this graphics device computes wrongly" in outcome
    assert "use the wasm backend" in outcome


def test_gradients(suite: Suite) -> None:
    """Every one of onnxruntime's exports that web/bridge/ort_wasm.ts calls is called here."""
    all_passed(suite("gradients", backend="wasm", threads=2), list(gradients_compliance.CHECKS))

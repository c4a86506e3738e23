"""Runs inside a tab's node worker: the suites of ``kwaainet.testing`` over the tab's own adapters."""

from __future__ import annotations

import json
import traceback
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from kwaainet.browser.bridge import JsFiles, JsPort
from kwaainet.browser.engine import BrowserEngine
from kwaainet.browser.gradients import BrowserGradients
from kwaainet.browser.host import BrowserHost
from kwaainet.browser.store import BrowserSource, BrowserStore
from kwaainet.testing import architectures, gradients_compliance
from kwaainet.testing.compliance import HOST_CHECKS, SOURCE_CHECKS, STORE_CHECKS
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.engine_compliance import CHECKS, DEVICE_CHECKS, fill

ALLOWED = {"wasm": 5e-5, "webgpu": 2e-4}  # of numbers of about 1

Check = Callable[..., Awaitable[None]]


async def run(tools: Any, suite: str, origin: str) -> str:
    """The outcome of each check of ``suite`` by name, as JSON: ``passed`` or a traceback."""
    outcomes = await SUITES[suite](tools, origin)
    return json.dumps(outcomes)


async def host(tools: Any, origin: str) -> dict[str, str]:
    caller, callee = [await BrowserHost.create(JsPort(port)) for port in tools.ports]
    await caller.listen()
    await callee.listen()
    return await each(HOST_CHECKS, caller, callee)


async def store(tools: Any, origin: str) -> dict[str, str]:
    return await each(STORE_CHECKS, BrowserStore(JsFiles(tools)))


async def source(tools: Any, origin: str) -> dict[str, str]:
    return await each(SOURCE_CHECKS, BrowserSource(JsFiles(tools), f"{origin}/sample/"))


async def engine(tools: Any, origin: str) -> dict[str, str]:
    return await engine_checks(tools, CHECKS.values())


async def device(tools: Any, origin: str) -> dict[str, str]:
    return await engine_checks(tools, [DEVICE_CHECKS[name] for name in tools.cases])


async def engine_checks(tools: Any, checks: Iterable[Check]) -> dict[str, str]:
    built = await fill(BrowserEngine(await tools.createEngine()))
    try:
        return await each(checks, built, await fill(NumpyEngine()))
    finally:
        await built.close()


async def every_architecture(tools: Any, origin: str) -> dict[str, str]:
    """The tiny models of ``tests/vectors/architectures.json``, each compared with Hugging Face's numbers."""
    built = BrowserEngine(await tools.createEngine())
    cases = json.loads(Path("architectures.json").read_text())["cases"]
    return {name: await _model(built, cases[name]) for name in tools.cases}


async def _model(built: BrowserEngine, value: dict[str, Any]) -> str:
    try:
        await architectures.check(built, architectures.Case.read(value), ALLOWED[built.backend])
    except Exception:
        return traceback.format_exc()
    return "passed"


async def gradients(tools: Any, origin: str) -> dict[str, str]:
    outcomes = {}
    for name in gradients_compliance.CHECKS:
        try:
            await gradients_compliance.check(name, lambda config: BrowserGradients(tools.createGradients))
        except Exception:
            outcomes[name] = traceback.format_exc()
        else:
            outcomes[name] = "passed"
    return outcomes


async def each(checks: Iterable[Check], *adapters: object) -> dict[str, str]:
    outcomes = {}
    for check in checks:
        try:
            await check(*adapters)
        except Exception:
            outcomes[check.__name__] = traceback.format_exc()
        else:
            outcomes[check.__name__] = "passed"
    return outcomes


SUITES = {
    "host": host,
    "store": store,
    "source": source,
    "engine": engine,
    "device": device,
    "architectures": every_architecture,
    "gradients": gradients,
}

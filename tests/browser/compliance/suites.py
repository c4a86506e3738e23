"""Runs inside a tab's node worker: the suites of ``kwaainet.testing`` over the tab's own adapters."""

from __future__ import annotations

import json
import traceback
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from kwaainet.browser.bridge import JsFiles, JsPort
from kwaainet.browser.engine import BrowserEngine
from kwaainet.browser.gradients import BrowserGradients
from kwaainet.browser.host import BrowserHost
from kwaainet.browser.store import BrowserSource, BrowserStore
from kwaainet.testing import gradients_compliance
from kwaainet.testing.compliance import HOST_CHECKS, SOURCE_CHECKS, STORE_CHECKS
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.engine_compliance import CHECKS, DEVICE_CHECKS, fill

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
    return await engine_checks(tools, DEVICE_CHECKS.values())


async def engine_checks(tools: Any, checks: Iterable[Check]) -> dict[str, str]:
    built = await fill(BrowserEngine(await tools.createEngine()))
    try:
        return await each(checks, built, await fill(NumpyEngine()))
    finally:
        await built.close()


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
    "gradients": gradients,
}

"""The way from Python in a page to a relay's SDK: its script, and a MessagePort to it.

On a page the script is a module of the page, so that WebRTC is at hand; in a worker, where Pyodide often
lives (JupyterLite), it is a worker of that worker. Rule of the file: the one place, beside ``bridge`` and
``worker``, that knows Pyodide; no JavaScript in strings but a worker's one line that imports the script.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import js
from pyodide.ffi import create_proxy, to_js

from ..errors import Unreachable
from .page_messages import PythonToSdk, SdkToPython

GREETING = "kwaainet-python"  # of web/sdk/python.ts


class PagePort:
    """``completions.Port`` over a MessagePort; each message is one JSON text."""

    def __init__(self, port: Any, receive: Callable[[SdkToPython], None], let_go: Callable[[], None]) -> None:
        self._port, self._let_go = port, let_go
        self._heard = create_proxy(lambda event: receive(cast(SdkToPython, json.loads(event.data))))
        port.onmessage = self._heard

    def send(self, message: PythonToSdk) -> None:
        """See ``Port``."""
        self._port.postMessage(json.dumps(message))

    def close(self) -> None:
        """See ``Port``."""
        self._port.onmessage = None
        self._port.close()
        self._heard.destroy()
        self._let_go()


async def open_port(relay: str, receive: Callable[[SdkToPython], None]) -> PagePort:
    """Load the SDK of ``relay`` and meet it. Raises ``Unreachable``."""
    channel = js.MessageChannel.new()
    address = f"{relay}/sdk/python.js"
    if hasattr(js, "document"):
        await _add_script(address)
        js.postMessage(GREETING, "*", to_js([channel.port2]))
        return PagePort(channel.port1, receive, lambda: None)
    worker = _make_worker(address)
    worker.onerror = create_proxy(lambda event: receive(_unreachable(address)))
    worker.postMessage(GREETING, to_js([channel.port2]))
    return PagePort(channel.port1, receive, worker.terminate)


async def _add_script(address: str) -> None:
    loaded: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    told = [create_proxy(lambda event, good=good: loaded.set_result(good)) for good in (True, False)]
    script = js.document.createElement("script")
    script.type, script.src = "module", address
    script.onload, script.onerror = told
    js.document.head.append(script)
    try:
        if not await loaded:
            raise Unreachable(_unreachable(address)["message"])
    finally:
        script.remove()
        for proxy in told:
            proxy.destroy()


def _make_worker(address: str) -> Any:
    """A worker may be of one's own origin only, so it is one line that imports the other's script."""
    kind = js.Object.fromEntries(to_js([["type", "text/javascript"]]))
    line = js.Blob.new(to_js([f"import {json.dumps(address)}"]), kind)
    module = js.Object.fromEntries(to_js([["type", "module"]]))
    return js.Worker.new(js.URL.createObjectURL(line), module)


def _unreachable(address: str) -> Any:
    message = f"{address} cannot be loaded; is it a relay's address, and is the relay running?"
    return {"type": "problem", "id": 0, "error": "Unreachable", "message": message}

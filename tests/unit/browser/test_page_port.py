"""How a page's Python meets the SDK: as a script of the page, or as a worker where there is no page."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kwaainet.errors import Unreachable

RELAY = "https://relay.example"


class Proxy:
    """What ``create_proxy`` gives."""

    def __init__(self, target: Callable[..., Any]) -> None:
        self.target, self.destroyed = target, False

    def __call__(self, *arguments: Any) -> Any:
        assert not self.destroyed
        return self.target(*arguments)

    def destroy(self) -> None:
        self.destroyed = True


class FakePort:
    """A MessagePort."""

    def __init__(self) -> None:
        self.posted: list[str] = []
        self.onmessage: Any = None
        self.closed = False

    def postMessage(self, text: str) -> None:
        self.posted.append(text)

    def close(self) -> None:
        self.closed = True


class Browser:
    """``js`` with as much of a browser as is used; ``loads`` says whether the relay's script can be had."""

    def __init__(self) -> None:
        self.loads = True
        self.ports = [FakePort(), FakePort()]
        self.scripts: list[Any] = []
        self.workers: list[Any] = []
        self.greeted: list[Any] = []
        self.js: Any = ModuleType("js")
        new = SimpleNamespace
        self.js.MessageChannel = new(new=lambda: new(port1=self.ports[0], port2=self.ports[1]))
        self.js.Object = new(fromEntries=dict)
        self.js.Blob = new(new=lambda parts, options: "".join(parts))
        self.js.URL = new(createObjectURL=lambda text: f"blob:{text}")
        self.js.Worker = new(new=self.make_worker)
        self.js.postMessage = lambda *words: self.greeted.append(words)

    def make_worker(self, address: str, options: Any) -> Any:
        worker = SimpleNamespace(address=address, options=options, ended=False)
        worker.postMessage = lambda *words: self.greeted.append(words)
        worker.terminate = lambda: setattr(worker, "ended", True)
        self.workers.append(worker)
        return worker

    def with_page(self) -> None:
        head = SimpleNamespace(append=self.append)
        make = lambda tag: SimpleNamespace(tag=tag, remove=lambda: None)  # noqa: E731
        self.js.document = SimpleNamespace(head=head, createElement=make)

    def append(self, script: Any) -> None:
        self.scripts.append(script)
        asyncio.get_running_loop().call_soon(script.onload if self.loads else script.onerror, None)


@pytest.fixture
def browser() -> Iterator[Browser]:
    names = ("js", "pyodide", "pyodide.ffi", "kwaainet.browser.page_port")
    saved = {name: sys.modules.pop(name, None) for name in names}
    made = Browser()
    ffi: Any = ModuleType("pyodide.ffi")
    ffi.create_proxy, ffi.to_js = Proxy, lambda value: value
    sys.modules.update({"js": made.js, "pyodide": ModuleType("pyodide"), "pyodide.ffi": ffi})
    yield made
    for name, module in saved.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def open_port(receive: Callable[[Any], None]) -> Any:
    return importlib.import_module("kwaainet.browser.page_port").open_port(RELAY, receive)


def test_a_page_loads_a_script_and_greets_itself(browser: Browser) -> None:
    browser.with_page()
    heard: list[Any] = []

    async def main() -> None:
        port = await open_port(heard.append)
        (script,) = browser.scripts
        assert (script.type, script.src) == ("module", f"{RELAY}/sdk/python.js")
        assert browser.greeted == [("kwaainet-python", "*", [browser.ports[1]])]
        port.send({"type": "load", "id": 1})
        assert json.loads(browser.ports[0].posted[0]) == {"type": "load", "id": 1}
        listening = browser.ports[0].onmessage
        listening(SimpleNamespace(data='{"type": "done", "id": 1}'))
        port.close()
        assert (browser.ports[0].closed, browser.ports[0].onmessage, listening.destroyed) == (
            True,
            None,
            True,
        )

    asyncio.run(main())
    assert heard == [{"type": "done", "id": 1}]


def test_a_script_that_cannot_be_had_is_named(browser: Browser) -> None:
    browser.with_page()
    browser.loads = False

    async def main() -> None:
        with pytest.raises(Unreachable, match=r"https://relay\.example/sdk/python\.js"):
            await open_port(lambda message: None)

    asyncio.run(main())


def test_a_worker_makes_a_worker_of_one_line(browser: Browser) -> None:
    heard: list[Any] = []

    async def main() -> None:
        port = await open_port(heard.append)
        (worker,) = browser.workers
        assert worker.address == f'blob:import "{RELAY}/sdk/python.js"'
        assert worker.options == {"type": "module"}
        assert browser.greeted == [("kwaainet-python", [browser.ports[1]])]
        worker.onerror(None)
        port.close()
        assert worker.ended

    asyncio.run(main())
    assert [(message["error"], message["id"]) for message in heard] == [("Unreachable", 0)]

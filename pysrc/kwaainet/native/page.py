"""One tab of a driven Chromium: navigate, evaluate, hear its events, count its bytes.

Rule of the file: the tab's workers are attached before they run, so that no console line, request
or byte of theirs is missed. Bytes are only watched where somebody asks for them: the browser then tells
every frame of every WebSocket, which a tab's steps wait for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ..errors import LocalError
from .devtools import ENDED, DevTools, EventHandler, JsonObject

log = logging.getLogger(__name__)

BINDING = "kwaainetEvent"
CLOSE_TIMEOUT = 5.0
LEVELS = {
    "error": logging.ERROR,
    "assert": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "log": logging.INFO,  # which Python's standard output in a tab is
}


class Page:
    """A tab, made by ``Browser.new_page``. Its console, and that of its workers, goes to logging.

    ``bytes_received`` counts what the network brought to the page and its workers, headers
    included, compressed as sent; ``requests`` lists the addresses they asked for; both stay empty unless
    the page was made with ``watch_network``; those of WebSockets are listed, too. ``workers`` are
    those running now, also those of frames: their scripts' addresses by DevTools session; ``frames`` likewise
    the frames of other sites, which have processes of their own. ``ended`` is done when the tab
    is closed or crashed or its browser is gone.
    """

    def __init__(self, devtools: DevTools, target: str, session: str, watch_network: bool = False) -> None:
        self._devtools = devtools
        self._target = target  # whose id its main frame has, too
        self._session = session
        self._watch_network = watch_network
        self._loaded = ""  # the document of the tab itself that was loaded last, by its loader's id
        self._load = asyncio.Event()  # another one was
        self._listeners: dict[str, Callable[[Any], None]] = {}
        self._hearers: list[EventHandler] = []
        self._attaching: set[asyncio.Task[None]] = set()
        self._first_in_workers = ""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.bytes_received = 0
        self.requests: list[str] = []
        self.workers: dict[str, str] = {}
        self.frames: dict[str, str] = {}

    @classmethod
    async def attach(cls, devtools: DevTools, target: str, watch_network: bool = False) -> Page:
        """The page of the browser's target ``target``, listened to from here on."""
        answer = await devtools.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        page = cls(devtools, target, answer["sessionId"], watch_network)
        devtools.on_events(page._session, page._handle_page)
        await page._call("Page.enable")
        await page._call("Page.setLifecycleEventsEnabled", {"enabled": True})
        await page._call("Inspector.enable")
        await page._watch(page._session)
        await page._call("Runtime.addBinding", {"name": BINDING})
        return page

    async def goto(self, url: str, timeout: float = 60.0) -> None:
        """Navigate and await the load event. ``LocalError`` when the page cannot be had."""
        answer = await self._call("Page.navigate", {"url": url}, timeout)
        if "errorText" in answer:
            raise LocalError(f"the browser cannot open {url}: {answer['errorText']}")
        wanted = answer.get("loaderId")
        if wanted is not None:  # else it goes to another place of the same document
            await self._await_load(lambda loaded: loaded == wanted, url, timeout)

    async def reload(self, timeout: float = 60.0) -> None:
        """Reload and await the load event; the old document sees pagehide."""
        old = self._loaded
        await self._call("Page.reload", timeout=timeout)
        await self._await_load(lambda loaded: loaded != old, "the reloaded page", timeout)

    async def evaluate(self, expression: str, timeout: float | None = 60.0) -> Any:
        """The JSON value of a JavaScript expression; a promise is awaited. ``LocalError`` if it throws."""
        return await self.evaluate_in(self._session, expression, timeout)

    async def evaluate_in(self, session: str, expression: str, timeout: float | None = 60.0) -> Any:
        """``evaluate``, in one of ``frames`` or ``workers``."""
        answer = await self._devtools.call(
            "Runtime.evaluate",
            {"expression": expression, "awaitPromise": True, "returnByValue": True, "userGesture": True},
            session=session,
            timeout=timeout,
        )
        if "exceptionDetails" in answer:
            raise LocalError(f"the page's script failed: {_thrown(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    async def on_event(self, name: str, callback: Callable[[Any], None]) -> None:
        """Call ``callback(detail)`` for each CustomEvent ``name`` that reaches the window.

        Holds for this document and for every later one; ``detail`` is what JSON keeps of it.
        """
        self._listeners[name] = callback
        quoted = json.dumps(name)
        source = (
            f"addEventListener({quoted}, (event) =>"
            f" {BINDING}(JSON.stringify([{quoted}, event.detail ?? null])))"
        )
        await self.run_first(source)
        await self.evaluate(f"void {source}")

    @contextlib.contextmanager
    def hearing(self, hearer: EventHandler) -> Iterator[None]:
        """Have ``hearer(method, params)`` told the tab's own DevTools events meanwhile."""
        self._hearers.append(hearer)
        try:
            yield
        finally:
            self._hearers.remove(hearer)

    async def run_first(self, source: str) -> None:
        """Have ``source`` run in every later document, ahead of its own scripts."""
        await self._call("Page.addScriptToEvaluateOnNewDocument", {"source": source})

    def run_first_in_workers(self, source: str) -> None:
        """Have ``source`` run in every worker that starts from here on, ahead of its own script."""
        self._first_in_workers = source

    async def press(self, key: str) -> None:
        """Press a key where the focus is, as a keyboard does."""
        text = {"text": "\r"} if key == "Enter" else {}
        code = {"Enter": 13, "Tab": 9, " ": 32}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            event = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
            await self._call("Input.dispatchKeyEvent", {**event, **(text if kind == "keyDown" else {})})

    async def screenshot(self, *, whole: bool = False) -> bytes:
        """What the tab shows, as PNG; ``whole``: with what is to be scrolled to."""
        answer = await self._call("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        return base64.b64decode(answer["data"])

    async def worker_command(self, worker: str, method: str, params: JsonObject | None = None) -> JsonObject:
        """One DevTools command to one of ``workers`` or ``frames``; ``LocalError`` if it refuses or ended."""
        return await self._devtools.call(method, params, session=worker)

    async def command(self, method: str, params: JsonObject | None = None) -> JsonObject:
        """One DevTools command to the tab; ``LocalError`` if it refuses."""
        return await self._call(method, params)

    async def close(self) -> None:
        """Close the tab as a person would: the document sees pagehide. Returns when the tab is gone."""
        with contextlib.suppress(LocalError):  # it may be gone already
            await self._call("Page.close", timeout=CLOSE_TIMEOUT)
        await asyncio.wait({self.ended}, timeout=CLOSE_TIMEOUT)

    async def _await_load(self, is_it: Callable[[str], bool], url: str, timeout: float) -> None:
        """A load event may still be on its way from the document before; ``is_it`` knows the one awaited."""
        loading = asyncio.ensure_future(self._loads(is_it))
        ends: set[asyncio.Future[Any]] = {loading, self.ended}
        await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            return
        loading.cancel()
        if self.ended.done():
            raise LocalError(f"the tab ended while loading {url}")
        raise LocalError(f"{url} did not finish loading within {timeout:g} s")

    async def _loads(self, is_it: Callable[[str], bool]) -> None:
        while not is_it(self._loaded):
            self._load.clear()
            await self._load.wait()

    async def _call(
        self, method: str, params: JsonObject | None = None, timeout: float | None = 60.0
    ) -> JsonObject:
        return await self._devtools.call(method, params, session=self._session, timeout=timeout)

    async def _watch(self, session: str) -> None:
        """Hear a session's console, and its network if that is watched; be told of its workers first."""
        await self._devtools.call("Runtime.enable", session=session)
        if self._watch_network:
            await self._devtools.call("Network.enable", session=session)
        follow = {"autoAttach": True, "waitForDebuggerOnStart": True, "flatten": True}
        await self._devtools.call("Target.setAutoAttach", follow, session=session)

    def _attach(self, session: str, kind: str, url: str) -> None:
        (self.frames if kind == "iframe" else self.workers)[session] = url
        self._devtools.on_events(session, partial(self._handle_worker, session))
        task = asyncio.create_task(self._release_worker(session))
        self._attaching.add(task)
        task.add_done_callback(self._attaching.discard)

    async def _release_worker(self, session: str) -> None:
        with contextlib.suppress(LocalError):  # the worker may have ended already
            await self._watch(session)
            if self._first_in_workers:
                first = {"expression": self._first_in_workers}
                await self._devtools.call("Runtime.evaluate", first, session=session)
        with contextlib.suppress(LocalError):
            await self._devtools.call("Runtime.runIfWaitingForDebugger", session=session)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _handle_page(self, method: str, params: JsonObject) -> None:
        for hearer in self._hearers:
            hearer(method, params)
        match method:
            case "Page.lifecycleEvent" if params["name"] == "load" and params["frameId"] == self._target:
                self._loaded = params["loaderId"]
                self._load.set()
            case "Inspector.targetCrashed":
                log.error("the tab crashed")
                self._end()
            case name if name == ENDED:
                self._end()
            case "Runtime.bindingCalled" if params["name"] == BINDING:
                name, detail = json.loads(params["payload"])
                self._listeners[name](detail)
            case _:
                self._handle_any(method, params)

    def _handle_worker(self, session: str, method: str, params: JsonObject) -> None:
        if method == ENDED:
            self.workers.pop(session, None)
            self.frames.pop(session, None)
        else:
            self._handle_any(method, params)

    def _handle_any(self, method: str, params: JsonObject) -> None:
        match method:
            case "Target.attachedToTarget":
                self._attach(params["sessionId"], params["targetInfo"]["type"], params["targetInfo"]["url"])
            case "Runtime.consoleAPICalled":
                words = (str(one.get("value", one.get("description", ""))) for one in params["args"])
                log.log(LEVELS.get(params["type"], logging.DEBUG), "page: %s", " ".join(words))
            case "Runtime.exceptionThrown":
                log.error("page: uncaught %s", _thrown(params["exceptionDetails"]))
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Network.webSocketCreated":
                self.requests.append(params["url"])
            case "Network.loadingFinished":
                self.bytes_received += int(params["encodedDataLength"])


def _thrown(details: JsonObject) -> str:
    return str(details.get("exception", {}).get("description") or details.get("text", "an unknown error"))

"""One DevTools socket of a browser: commands by id, events by session.

Follows the Chrome DevTools Protocol in its flat form: one WebSocket to the browser, each page a
session on it. Rule of the file: it knows the protocol's envelope and no domain of it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Callable
from typing import Any

import aiohttp

from ..errors import LocalError

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]
EventHandler = Callable[[str, JsonObject], None]

ENDED = "ended"  # handed to a session's handler as its last event, whatever ended it

MAX_MESSAGE_SIZE = 128 << 20  # a full-page screenshot in base64 is the largest thing that comes
COMMAND_TIMEOUT = 60.0


class DevTools:
    """A connected socket. ``await DevTools.connect(url)`` makes one, ``await close()`` ends it."""

    def __init__(self, http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._http = http
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[JsonObject]] = {}
        self._handlers: dict[str, EventHandler] = {}
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, url: str) -> DevTools:
        """Open the socket at ``url`` (``ws://127.0.0.1:PORT/devtools/browser/ID``)."""
        http = aiohttp.ClientSession()
        try:
            socket = await http.ws_connect(url, max_msg_size=MAX_MESSAGE_SIZE, autoping=True)
        except (aiohttp.ClientError, OSError) as error:
            await http.close()
            raise LocalError(f"the browser's DevTools socket {url} does not answer: {error}") from None
        return cls(http, socket)

    async def call(
        self,
        method: str,
        params: JsonObject | None = None,
        *,
        session: str = "",
        timeout: float | None = COMMAND_TIMEOUT,
    ) -> JsonObject:
        """One command's result. ``LocalError`` when the browser refuses, is gone or is late."""
        if self._reader.done():
            raise LocalError(f"the browser is gone; {method} was not sent")
        message: JsonObject = {"id": next(self._ids), "method": method, "params": params or {}}
        if session:
            message["sessionId"] = session
        answer: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        self._waiting[message["id"]] = answer
        try:
            await self._socket.send_json(message)
            return await asyncio.wait_for(answer, timeout)
        except TimeoutError:
            raise LocalError(f"the browser did not answer {method} within {timeout:g} s") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise LocalError(f"the browser went away during {method}: {error}") from None
        finally:
            del self._waiting[message["id"]]

    def on_events(self, session: str, handler: EventHandler) -> None:
        """Hand every event of ``session`` to ``handler(method, params)`` from now on.

        The last one is ``ENDED``: the target was closed or crashed, or the browser is gone.
        """
        self._handlers[session] = handler

    async def close(self) -> None:
        """Close the socket. Calls still waiting fail with ``LocalError``."""
        await self._socket.close()
        await self._http.close()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    self._dispatch(json.loads(message.data))
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(LocalError("the browser closed its DevTools socket"))
            for session in list(self._handlers):
                self._tell(session, ENDED, {})

    def _dispatch(self, message: JsonObject) -> None:
        if "id" in message:
            self._settle(message)
            return
        method, params = message["method"], message.get("params", {})
        self._tell(message.get("sessionId", ""), method, params)
        if method == "Target.detachedFromTarget":
            self._tell(params["sessionId"], ENDED, {})

    def _tell(self, session: str, method: str, params: JsonObject) -> None:
        handler = self._handlers.get(session)
        if method == ENDED:
            self._handlers.pop(session, None)
        if handler is None:
            return
        try:
            handler(method, params)
        except Exception:  # a listener's bug must not end the socket for everybody else
            log.exception("a listener failed on the browser's %s", method)

    def _settle(self, message: JsonObject) -> None:
        answer = self._waiting.get(message["id"])
        if answer is None or answer.done():
            return
        if "error" in message:
            text = message["error"].get("message", "no reason given")
            answer.set_exception(LocalError(f"the browser refused a command: {text}"))
        else:
            answer.set_result(message.get("result", {}))

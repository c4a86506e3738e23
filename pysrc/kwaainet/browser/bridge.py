"""What JavaScript offers the node worker, as Python values: the far side of ``Bridge`` in web/worker/node.ts.

Rule of the file: the one place, with ``worker``, that knows Pyodide; conversions only. Bytes are
copied once each way; what goes out is a buffer of its own, so that it can be transferred.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from js import Object
from pyodide.ffi import create_proxy, to_js

from .event_loop import Queues
from .messages import NetworkToNode, NodeToNetwork
from .node_messages import NodeToPage, SetLimits
from .store import RangeAnswer


class JsAlarm:
    """``Alarm`` by a MessagePort and a timer of JavaScript."""

    def __init__(self, bridge: Any) -> None:
        self._wake_in = bridge.wakeIn
        self.wake: Callable[[], None] = bridge.wake  # looked up once: it is on the path of every message

    def wake_in(self, seconds: float) -> None:
        """See ``Alarm``."""
        self._wake_in(seconds * 1000)


def take_over(bridge: Any, loop: Any) -> Queues:
    """Run Pyodide's event loop by queues of our own from now on."""

    def prepare() -> None:
        loop._install_running_loop()
        loop._install_asyncgen_hooks()

    queues = Queues(loop, JsAlarm(bridge), prepare)
    bridge.onTurn(create_proxy(queues.turn), create_proxy(queues.ring))
    return queues


class JsPort:
    """``NetworkPort``: messages as plain objects, those of streams, which are most, as arguments.

    Taking a message only makes Python ready; it runs when all messages that have arrived are taken, so
    that the steps among them are computed together.
    """

    def __init__(self, bridge: Any) -> None:
        self._bridge = bridge
        self._post, self._post_data = bridge.post, bridge.postData

    def post(self, message: NodeToNetwork) -> None:
        if message["type"] == "data":
            self._post_data(message["id"], to_js(message["body"]))
        else:
            self._post(_to_object(message))

    def listen(self, receive: Callable[[NetworkToNode], None]) -> None:
        def take(message: Any) -> None:
            fields = message.to_py(depth=1)
            body = fields.get("body")
            if body is not None:
                fields["body"] = body.to_bytes() if hasattr(body, "to_bytes") else bytes(body)
            if "addresses" in fields:
                fields["addresses"] = list(fields["addresses"])
            receive(cast(NetworkToNode, fields))

        def take_data(number: int, body: Any) -> None:
            receive({"type": "data", "id": number, "body": body.to_bytes()})

        self._bridge.listen(create_proxy(take), create_proxy(take_data))


class JsFiles:
    """``BlobFiles`` in OPFS and ``RangeFetcher`` by ``fetch``."""

    def __init__(self, bridge: Any) -> None:
        self._bridge = bridge

    async def read(self, digest: str) -> bytes | None:
        data = await self._bridge.readBlob(digest)
        return None if data is None else cast(bytes, data.to_bytes())

    async def write(self, digest: str, data: bytes) -> str:
        return str(await self._bridge.writeBlob(digest, to_js(data)))

    async def read_part(self, digest: str) -> bytes | None:
        data = await self._bridge.readPart(digest)
        return None if data is None else cast(bytes, data.to_bytes())

    async def write_part(self, digest: str, offset: int, data: bytes) -> str:
        return str(await self._bridge.writePart(digest, offset, to_js(data)))

    async def fetch(self, url: str, offset: int, length: int) -> RangeAnswer:
        answer = await self._bridge.fetchRange(url, offset, length)
        body = None if answer.body is None else answer.body.to_bytes()
        return RangeAnswer(int(answer.status), int(answer.total), body, str(answer.reason))


def reporter(bridge: Any) -> Callable[[NodeToPage], None]:
    """Messages to the page."""
    return lambda message: bridge.report(_to_object(message))


def on_stop(bridge: Any, callback: Callable[[float], None]) -> None:
    """Have ``callback`` called with the seconds to drain whenever the page asks the node to stop."""
    bridge.onStop(create_proxy(callback))


def on_limits(bridge: Any, receive: Callable[[SetLimits], None]) -> None:
    """Have ``receive`` called with what the person at this machine allows, whenever the page says it."""
    bridge.onLimits(create_proxy(lambda message: receive(cast(SetLimits, message.to_py()))))


def on_message(bridge: Any, receive: Callable[[Any], None]) -> None:
    """Have every message of the page, those that came before included, as plain data."""
    bridge.onMessage(create_proxy(lambda message: receive(message.to_py())))


def _to_object(message: Any) -> Any:
    return to_js(message, dict_converter=Object.fromEntries)

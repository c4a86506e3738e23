"""Network workers in memory (what web/bridge/rpc.ts does with messages), and just enough of JavaScript."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kwaainet.browser.messages import FRAME_HEADER_SIZE, STREAM_WINDOW
from kwaainet.types import PeerId

Message = Any


@dataclass
class _End:
    """One end of a stream: whose it is, its number there, and what waits for its credit."""

    worker: FakeWorker
    number: int
    is_caller: bool
    other: _End = field(init=False)
    window: int = STREAM_WINDOW
    waiting: deque[Message] = field(default_factory=deque)
    over: bool = False

    def pass_on(self, message: Message) -> None:
        """A message of the other end, in order and within this end's window."""
        self.waiting.append(message)
        self.flush()

    def flush(self) -> None:
        while self.waiting and not self.over and (self.window > 0 or self.waiting[0]["type"] != "data"):
            message = {**self.waiting.popleft(), "id": self.number}
            self.over = message["type"] in ("close", "fault", "cancel")
            self.worker.deliver(message)
            if message["type"] == "data":
                size = FRAME_HEADER_SIZE + len(message["body"])
                self.window -= size
                if not self.other.over:
                    self.other.worker.deliver({"type": "credit", "id": self.other.number, "bytes": size})


class FakeNetwork:
    """All workers of a test."""

    def __init__(self) -> None:
        self.workers: dict[str, FakeWorker] = {}

    def worker(self) -> FakeWorker:
        """A worker with an identity of its own; pass it to ``BrowserHost.create`` as its port."""
        peer = str(PeerId(bytes.fromhex("002408011220") + bytes([len(self.workers) + 1]) * 32))
        self.workers[peer] = FakeWorker(self, peer)
        return self.workers[peer]


class FakeWorker:
    """A ``NetworkPort`` and the worker behind it. ``posted`` is every message it was sent."""

    def __init__(self, network: FakeNetwork, peer: str) -> None:
        self.network, self.peer = network, peer
        self.posted: list[Message] = []
        self.served: set[str] = set()
        self.can_listen = True
        self._numbers = 0
        self._receive: Callable[[Any], None] = lambda message: None
        self._ends: dict[int, _End] = {}
        self._calls: dict[int, tuple[FakeWorker, int]] = {}  # answers go there

    def listen(self, receive: Callable[[Any], None]) -> None:
        self._receive = receive
        self.deliver({"type": "identity", "peer_id": self.peer})

    def deliver(self, message: Message) -> None:
        """As a MessagePort: later, in order."""
        asyncio.get_running_loop().call_soon(self._receive, message)

    def post(self, message: Message) -> None:
        self.posted.append(message)
        match message["type"]:
            case "serve":
                self.served.add(message["protocol"])
            case "listen":
                self._listen(message["id"])
            case "call" | "open":
                self._begin(message)
            case "leave":
                self._leave(message)
            case "farewell":
                pass
            case _:
                self._route(message)

    def connection(self, state: str, reason: str = "") -> None:
        """Have the host told of its relay."""
        addresses = ["/ip4/127.0.0.1/tcp/1/ws/p2p-circuit"] if state == "reserved" else []
        self.deliver(
            {
                "type": "connection",
                "state": state,
                "relay": "/relay",
                "addresses": addresses,
                "reason": reason,
            }
        )

    def _listen(self, number: int) -> None:
        if self.can_listen:
            self.connection("reserved")
            self.deliver({"type": "result", "id": number})
        else:
            self._refuse(number, "Unreachable", "no relay could be reached")

    def _begin(self, message: Message) -> None:
        callee = self.network.workers.get(message["peer"])
        if callee is None:
            self._refuse(message["id"], "Unreachable", f"peer {message['peer']} cannot be reached")
        elif message["protocol"] not in callee.served:
            self._refuse(message["id"], "HandshakeError", f"no {message['protocol']} there")
        else:
            callee._numbers += 2
            number = callee._numbers
            if message["type"] == "call":
                self._calls[message["id"]] = (callee, number)
                callee._calls[number] = (self, message["id"])
            else:
                near, far = _End(self, message["id"], True), _End(callee, number, False)
                near.other, far.other = far, near
                self._ends[near.number], callee._ends[number] = near, far
                self.deliver({"type": "result", "id": message["id"]})
            callee.deliver({**message, "id": number, "peer": self.peer})

    def _route(self, message: Message) -> None:
        end = self._ends.get(message["id"])
        if message["id"] in self._calls:
            worker, number = self._calls.pop(message["id"])
            worker._calls.pop(number, None)
            worker.deliver({**message, "id": number})
        elif end is not None and message["type"] == "credit":
            end.window += message["bytes"]
            end.flush()
        elif end is not None:
            end.over = end.over or message["type"] in ("close", "fault", "cancel")
            if message["type"] == "cancel":
                end.other.waiting.clear()
            end.other.pass_on(message)

    def _leave(self, message: Message) -> None:
        for end in self._ends.values():
            if not end.over and not end.is_caller:
                fault = {"type": "fault", "error": "RpcError", "message": message["reason"]}
                end.over = True
                end.other.pass_on(fault)
        self.deliver({"type": "result", "id": message["id"]})

    def _refuse(self, number: int, error: str, text: str) -> None:
        self.deliver({"type": "fault", "id": number, "error": error, "message": text})


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


class JsBytes:
    """A Uint8Array."""

    def __init__(self, data: bytes) -> None:
        self.data = bytes(data)

    def to_bytes(self) -> bytes:
        return self.data


class JsObject:
    """A plain object; attributes are its fields."""

    def __init__(self, fields: Iterable[tuple[str, Any]]) -> None:
        self.__dict__.update(fields)

    def to_py(self, *, depth: int = -1) -> dict[str, Any]:
        return dict(self.__dict__)


def to_js(value: Any, *, dict_converter: Callable[[Any], Any] | None = None) -> Any:
    if isinstance(value, bytes):
        return JsBytes(value)
    if isinstance(value, dict):
        assert dict_converter is not None, "a dict would become a Map"
        return dict_converter((key, to_js(one, dict_converter=dict_converter)) for key, one in value.items())
    return value


@pytest.fixture
def javascript(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """``js`` and ``pyodide.ffi`` as far as the adapters use them: conversions without JavaScript."""
    js, pyodide, ffi = ModuleType("js"), ModuleType("pyodide"), ModuleType("pyodide.ffi")
    vars(js)["Object"] = SimpleNamespace(fromEntries=JsObject)
    vars(ffi).update(to_js=to_js, create_proxy=lambda function: function, JsException=RuntimeError)
    vars(pyodide)["ffi"] = ffi
    for name, module in {"js": js, "pyodide": pyodide, "pyodide.ffi": ffi}.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("bridge", "engine", "worker"):  # imported anew, and forgotten afterwards
        monkeypatch.delitem(sys.modules, f"kwaainet.browser.{name}", raising=False)
    return SimpleNamespace(Bytes=JsBytes, Object=JsObject)

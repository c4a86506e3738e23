"""Conversions between JavaScript's values and ours: nothing of theirs gets past the bridge."""

import asyncio
import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kwaainet.browser.store import RangeAnswer
from kwaainet.testing.clock import run


@pytest.fixture
def bridge(javascript: SimpleNamespace) -> ModuleType:
    return importlib.import_module("kwaainet.browser.bridge")


def test_messages_go_out_as_plain_objects_and_data_as_arguments(bridge: ModuleType) -> None:
    posted: list[Any] = []
    port = bridge.JsPort(SimpleNamespace(post=posted.append, postData=lambda *fields: posted.append(fields)))
    port.post({"type": "result", "id": 3, "body": b"abc"})
    port.post({"type": "data", "id": 4, "body": b"def"})
    assert (posted[0].type, posted[0].id, posted[0].body.to_bytes()) == ("result", 3, b"abc")
    assert (posted[1][0], posted[1][1].to_bytes()) == (4, b"def")


def test_messages_come_in_with_bytes(bridge: ModuleType, javascript: SimpleNamespace) -> None:
    receivers: list[Any] = []
    heard: list[Any] = []
    js = SimpleNamespace(post=None, postData=None, listen=lambda *both: receivers.extend(both))
    bridge.JsPort(js).listen(heard.append)
    receivers[0](javascript.Object({"type": "result", "id": 2, "body": javascript.Bytes(b"\0\1")}.items()))
    receivers[0](
        javascript.Object({"type": "connection", "state": "reserved", "addresses": ("/ip4/x",)}.items())
    )
    receivers[0](javascript.Object({"type": "end", "id": 2}.items()))
    receivers[1](4, javascript.Bytes(b"\2"))
    assert heard == [
        {"type": "result", "id": 2, "body": b"\0\1"},
        {"type": "connection", "state": "reserved", "addresses": ["/ip4/x"]},
        {"type": "end", "id": 2},
        {"type": "data", "id": 4, "body": b"\2"},
    ]


def test_the_loop_is_taken_over_and_woken_by_javascript(bridge: ModuleType) -> None:
    class PyodideLoop(asyncio.SelectorEventLoop):
        prepared = 0

        def _install_running_loop(self) -> None:
            self.prepared += 1

        def _install_asyncgen_hooks(self) -> None:
            pass

    loop, turns, wakes, alarms, done = PyodideLoop(), list[Any](), list[int](), list[float](), list[str]()
    alarm = SimpleNamespace(
        wake=lambda: wakes.append(1), wakeIn=alarms.append, onTurn=lambda *both: turns.extend(both)
    )
    bridge.take_over(alarm, loop)
    loop.call_later(0.5, print)
    loop.call_soon(done.append, "soon")
    assert (wakes, done) == ([1], [])
    assert alarms == [pytest.approx(500, abs=50)]
    turns[0]()
    assert done == ["soon"]
    assert loop.prepared == 1
    loop.close()


def test_blobs_and_ranges(bridge: ModuleType, javascript: SimpleNamespace) -> None:
    class Files:
        kept: Any = None

        async def readBlob(self, digest: str) -> Any:
            return self.kept

        async def writeBlob(self, digest: str, data: Any) -> str:
            self.kept = data
            return ""

        async def fetchRange(self, url: str, offset: int, length: int) -> Any:
            body = javascript.Bytes(b"xy") if offset == 0 else None
            return SimpleNamespace(status=206.0 if body else 416, total=2.0, body=body, reason="")

    async def main() -> None:
        files = bridge.JsFiles(Files())
        assert await files.read("0" * 64) is None
        assert await files.write("0" * 64, b"weights") == ""
        assert await files.read("0" * 64) == b"weights"
        assert await files.fetch("http://x", 0, 2) == RangeAnswer(206, 2, b"xy", "")
        assert await files.fetch("http://x", 2, 2) == RangeAnswer(416, 2, None, "")

    run(main())


def test_the_page_is_told_and_asks_to_stop(bridge: ModuleType) -> None:
    told: list[Any] = []
    asked: list[Any] = []
    page = SimpleNamespace(report=told.append, onStop=asked.append)
    bridge.reporter(page)({"type": "stopped"})
    assert told[0].type == "stopped"
    stopped: list[bool] = []
    bridge.on_stop(page, lambda: stopped.append(True))
    asked[0]()
    assert stopped == [True]


def test_the_pages_messages_come_in_as_plain_data(bridge: ModuleType, javascript: SimpleNamespace) -> None:
    receivers: list[Any] = []
    heard: list[Any] = []
    bridge.on_message(SimpleNamespace(onMessage=receivers.append), heard.append)
    receivers[0](javascript.Object({"type": "cancel", "id": 3}.items()))
    assert heard == [{"type": "cancel", "id": 3}]

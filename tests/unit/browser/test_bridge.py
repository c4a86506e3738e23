"""Conversions between JavaScript's values and ours: nothing of theirs gets past the bridge."""

import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kwaainet.browser.store import RangeAnswer
from kwaainet.testing.clock import run


@pytest.fixture
def bridge(javascript: SimpleNamespace) -> ModuleType:
    return importlib.import_module("kwaainet.browser.bridge")


def test_messages_go_out_as_plain_objects(bridge: ModuleType) -> None:
    posted: list[Any] = []
    port = bridge.JsPort(SimpleNamespace(post=posted.append))
    port.post({"type": "data", "id": 3, "body": b"abc"})
    assert (posted[0].type, posted[0].id, posted[0].body.to_bytes()) == ("data", 3, b"abc")


def test_messages_come_in_with_bytes(bridge: ModuleType, javascript: SimpleNamespace) -> None:
    receivers: list[Any] = []
    heard: list[Any] = []
    bridge.JsPort(SimpleNamespace(post=None, listen=receivers.append)).listen(heard.append)
    receivers[0](javascript.Object({"type": "data", "id": 2, "body": javascript.Bytes(b"\0\1")}.items()))
    receivers[0](
        javascript.Object({"type": "connection", "state": "reserved", "addresses": ("/ip4/x",)}.items())
    )
    receivers[0](javascript.Object({"type": "end", "id": 2}.items()))
    assert heard == [
        {"type": "data", "id": 2, "body": b"\0\1"},
        {"type": "connection", "state": "reserved", "addresses": ["/ip4/x"]},
        {"type": "end", "id": 2},
    ]


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

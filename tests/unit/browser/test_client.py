"""The client worker's main from loading to leaving, in a network of memory."""

from __future__ import annotations

import asyncio
import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kwaainet.errors import ModelFileError
from kwaainet.inference.text import TextSettings
from kwaainet.inference.tokenizer import _ALPHABET, Tokenizer
from kwaainet.inference.vocabulary import Vocabulary
from kwaainet.testing.clock import run
from kwaainet.testing.model import FILE, TINY, random_model

MANIFEST, FILES = random_model()
IDS = {character: number for number, character in enumerate(_ALPHABET[: TINY.vocab_size])}
TOKENIZER = Tokenizer(Vocabulary(IDS, [], "gpt-2"))
TEXT = TextSettings(lambda: TOKENIZER, "{{ messages[0].content }}", {}, frozenset()).to_json()
ORDER = {
    "type": "complete",
    "id": 7,
    "messages": [{"role": "user", "content": "!"}],
    "max_tokens": 2,
    "temperature": 0.0,
    "top_p": 1.0,
    "stop": [],
}


@pytest.fixture
def client(javascript: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.delitem(importlib.import_module("sys").modules, "kwaainet.browser.client", raising=False)
    module = importlib.import_module("kwaainet.browser.client")
    turn = SimpleNamespace(turn=lambda: None)
    monkeypatch.setattr(
        module, "take_over", lambda bridge, loop: turn
    )  # the clock of the test drives its loop
    return module


class Bridge:
    """``Bridge`` of web/worker/client.ts over a network worker in memory."""

    def __init__(self, javascript: SimpleNamespace, worker: Any) -> None:
        self._javascript, self._worker = javascript, worker
        self.told: list[Any] = []
        self.page: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def post(self, message: Any) -> None:
        fields = message.to_py()
        if "body" in fields:
            fields["body"] = fields["body"].to_bytes()
        self._worker.post(fields)

    def postData(self, number: int, body: Any) -> None:
        self._worker.post({"type": "data", "id": number, "body": body.to_bytes()})

    def listen(self, receive: Any, take: Any) -> None:
        def pass_on(message: dict[str, Any]) -> None:
            if message["type"] == "data":
                return take(message["id"], self._javascript.Bytes(message["body"]))
            body = {"body": self._javascript.Bytes(message["body"])} if "body" in message else {}
            receive(self._javascript.Object({**message, **body}.items()))

        self._worker.listen(pass_on)

    def report(self, message: Any) -> None:
        self.told.append(message.to_py())

    def onMessage(self, receive: Any) -> None:
        self.page.set_result(lambda message: receive(self._javascript.Object(message.items())))

    async def readBlob(self, digest: str) -> None:
        return None

    async def writeBlob(self, digest: str, data: Any) -> str:
        return ""

    async def fetchRange(self, url: str, offset: int, length: int) -> Any:
        assert url == f"http://relay/model/{FILE}"
        body = self._javascript.Bytes(FILES[FILE][offset : offset + length])
        return SimpleNamespace(status=206, total=len(FILES[FILE]), body=body, reason="")


def config(javascript: SimpleNamespace, relay: str) -> Any:
    model = {"prefix": "tiny", "num_blocks": 5, "manifest": "", "files": "http://relay/model/"}
    relays = [f"/ip4/127.0.0.1/tcp/1/ws/p2p/{relay}"]
    return javascript.Object(
        {"origin": "http://relay", "relays": relays, "model": model, "push": "auto"}.items()
    )


def test_it_loads_answers_and_leaves(client: ModuleType, javascript: SimpleNamespace, network: Any) -> None:
    async def main() -> None:
        bridge = Bridge(javascript, network.worker())
        asked = config(javascript, network.worker().peer)
        running = asyncio.ensure_future(client.main(bridge, asked, MANIFEST.to_json(), TEXT))
        say = await bridge.page
        assert [message["state"] for message in bridge.told if message["type"] == "client-state"] == [
            "loading",
            "ready",
        ]
        head = sum(MANIFEST.tensors[name].length for name in MANIFEST.tensors if "layers" not in name)
        assert bridge.told[-2] == {
            "type": "progress",
            "stage": "weights",
            "done": head,
            "total": head,
            "cached": 0,
            "rate": 0.0,
        }
        say(ORDER)
        say({"type": "cancel", "id": 99, "reason": ""})
        await asyncio.sleep(60)
        assert (bridge.told[-1]["type"], bridge.told[-1]["id"]) == ("refused", 7), "that relay reads no DHT"
        say({"type": "stop-client"})
        await running

    run(main())


def test_what_is_wrong_with_the_text_ends_it(
    client: ModuleType, javascript: SimpleNamespace, network: Any
) -> None:
    async def main() -> None:
        worker = network.worker()
        asked = config(javascript, network.worker().peer)
        with pytest.raises(ModelFileError, match="text settings"):
            await client.main(Bridge(javascript, worker), asked, MANIFEST.to_json(), "{}")
        assert worker.posted[-1]["type"] == "leave", "its place at the relay is given back"

    run(main())

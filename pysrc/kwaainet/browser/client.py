"""The client worker's main: the same ``Client`` as everywhere, over the tab's host, for the page's chat.

Rule of the file: composition, and what the page is told of loading; answering is ``chat``'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from os import urandom
from typing import Any, cast

from ..formats.manifest import ModelManifest
from ..inference.text import TextSettings
from ..node.client import Client, ClientOptions
from ..node.directory import directory_reader
from ..node.model import load_head
from ..types import Progress
from . import chat_messages, messages
from .bridge import JsFiles, JsPort, on_message, reporter, take_over
from .chat import Chat, ChatModel
from .console import log_to_console
from .host import BrowserHost
from .store import BrowserSource, BrowserStore
from .worker import loading, relay_of, speaker

log = logging.getLogger(__name__)


async def main(bridge: Any, config: Any, manifest_text: str, text: str) -> None:
    """Answer the page until it says stop. ``config`` is a ``chat_messages.ClientConfig`` as a JavaScript
    object, ``text`` the JSON of the model's ``TextSettings``.

    Raises ``ConfigError``, ``ModelFileError``, ``UnsupportedModel`` and what loading raises.
    """
    log_to_console()
    take_over(bridge, asyncio.get_running_loop())
    asked = cast(chat_messages.ClientConfig, config.to_py())
    tell = cast(Any, reporter(bridge))
    host = await BrowserHost.create(JsPort(bridge))
    try:
        tell({"type": "client-state", "state": "loading"})
        model, _ = await asyncio.gather(
            load_model(bridge, asked["model"], ModelManifest.from_json(manifest_text), text, tell),
            host.listen(),
        )
        chat = Chat(model, client_of(host, asked, model), tell, time.perf_counter)
        stopped = asyncio.Event()
        on_message(bridge, Desk(chat, stopped).take)
        tell({"type": "client-state", "state": "ready"})
        await stopped.wait()
        await chat.close()
    finally:
        await host.close()


async def load_model(
    bridge: Any, model: messages.Model, manifest: ModelManifest, text: str, tell: Any
) -> ChatModel:
    """Tokenizer, template and head, the head by range and from what was kept."""

    def report(progress: Progress) -> None:
        tell(loading(progress))

    files = JsFiles(bridge)
    source, store = BrowserSource(files, model["files"]), BrowserStore(files)
    head = await load_head(manifest, source, store, report)
    return ChatModel(manifest.config, TextSettings.from_json(text), head)


def client_of(host: BrowserHost, asked: chat_messages.ClientConfig, model: ChatModel) -> Client:
    """A client that reads the swarm through the relay."""
    reader = directory_reader(host, speaker(host, relay_of(asked["relays"])))
    return Client(
        host,
        reader,
        asked["model"]["prefix"],
        model.config.num_hidden_layers,
        now=time.perf_counter,
        random_bytes=urandom,
        options=ClientOptions(push=asked["push"]),
    )


class Desk:
    """Takes what the page says, once there is somebody to do it."""

    def __init__(self, chat: Chat, stopped: asyncio.Event) -> None:
        self._chat, self._stopped = chat, stopped

    def take(self, message: chat_messages.PageToClient) -> None:
        """One message of the page."""
        match message["type"]:
            case "complete":
                self._chat.order(message)
            case "cancel":
                self._chat.cancel(message["id"])
            case "stop-client":
                self._stopped.set()

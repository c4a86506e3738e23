"""A small random model that can be talked to, and a page's chat as a person uses it.

Rule of the file: what the model says is noise, but always the same and always ASCII: the head knows no
other token, so texts can be compared character by character.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from browser.peers import SMALL
from browser.tabs import PATIENCE, Event, Tab, eventually
from interop.running import KWAAINET, started
from safetensors.numpy import save_file

from kwaainet.formats.huggingface import write_config
from kwaainet.inference.tokenizer import _ALPHABET
from kwaainet.inference.vocabulary import Vocabulary
from kwaainet.native.page import Page

PREFIX = "talking-llama"
START, END = "<|im_start|>", "<|im_end|>"
SPECIAL = {START: len(_ALPHABET), END: len(_ALPHABET) + 1}
TALKING = replace(SMALL, vocab_size=len(_ALPHABET) + len(SPECIAL))
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Ahead of a client worker's script: after so many pieces of answers it sends nothing to the network any more.
HOLDABLE = """
(() => {
  const { postMessage: send } = MessagePort.prototype
  const { postMessage: tell } = globalThis
  const held = []
  let left = %(pieces)s
  MessagePort.prototype.postMessage = function (...words) {
    if (left > 0) send.apply(this, words)
    else held.push([this, words])
  }
  globalThis.postMessage = (...words) => {
    tell.apply(globalThis, words)
    if (words[0]?.type === 'piece') left--
  }
  globalThis.allow = pieces => {
    left = pieces
    for (const [port, words] of held.splice(0)) send.apply(port, words)
  }
})()
"""


def write_talking_model(folder: Path, seed: int = 0) -> Path:
    """A random Llama with a byte-level tokenizer and a chat template; it says printable ASCII only."""
    random = np.random.default_rng(seed)
    tensors: dict[str, Any] = {}
    for name, shape in TALKING.tensor_shapes().items():
        values = random.standard_normal(shape, np.float32)
        values = 1 + values * np.float32(0.1) if len(shape) == 1 else values / np.float32(shape[1] ** 0.5)
        tensors[name] = values.astype(np.float32)
    head = tensors["lm_head.weight"]
    head[[byte for byte in range(len(head)) if not 0x20 <= byte < 0x7F]] = 0
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(write_config(TALKING)))
    ids = {character: byte for byte, character in enumerate(_ALPHABET)}
    vocabulary = Vocabulary(ids, [], "smollm", added=SPECIAL, special=frozenset(SPECIAL))
    (folder / "tokenizer.json").write_text(vocabulary.to_json())
    settings = {"eos_token": END, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


async def generated(model: Path, prefix: str, initial_peer: str, prompt: str, tokens: int) -> str:
    """What ``kwaainet generate`` says, greedily."""
    command = [KWAAINET, "generate", prompt, "--model", model, "--prefix", prefix]
    command += ["--initial-peers", initial_peer, "--max-new-tokens", str(tokens)]

    def run() -> str:
        with tempfile.TemporaryDirectory() as folder:
            with started(command, Path(folder), "generate", {"NO_COLOR": "1"}) as running:
                code = running.process.wait(PATIENCE)
            assert code == 0, running.tail()
            return running.out.read_text().removesuffix("\n")

    return await asyncio.to_thread(run)


class ChatPage:
    """The chat of an open page; ``events`` is what its client said, oldest first."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.events: list[Event] = []

    @classmethod
    async def of(cls, tab: Tab) -> ChatPage:
        """Listen to the chat of a page from here on."""
        chat = cls(tab.page)
        await tab.page.on_event("kwaainet-chat", chat.events.append)
        return chat

    async def allow(self, pieces: int | None = None) -> None:
        """Let its client tell so many pieces more (None: all), now or once it runs, and then hold the answer.

        However slow a test is, what it does then comes before the end. To be called before the first message.
        """
        number = "Infinity" if pieces is None else str(pieces)
        self.page.run_first_in_workers(HOLDABLE % {"pieces": number})
        for session, url in list(self.page.workers.items()):
            if "/client.js" in url:
                await self.page.evaluate_in(session, f"allow({number})")

    async def send(self, text: str) -> None:
        """Type a message and press Send."""
        await self.page.evaluate(
            f"document.getElementById('chat-input').value = {json.dumps(text)};"
            "document.getElementById('chat-send').click()"
        )

    async def ask(self, text: str) -> str:
        """Send a message and await the whole answer."""
        await self.send(text)
        return await self.answer()

    async def answer(self) -> str:
        """The answer under way once it has ended; fails with what the page calls a problem."""

        async def ended() -> bool:
            return bool(await self.page.evaluate("document.getElementById('chat-stop').disabled"))

        await eventually(ended)
        problem = await self.text("chat-problem")
        assert problem == "", problem
        return await self.last()

    async def last(self) -> str:
        """What the last turn of the conversation reads so far."""
        articles = "[...document.querySelectorAll('#chat-log article p')]"
        return str(await self.page.evaluate(f"{articles}.at(-1)?.textContent ?? ''"))

    async def text(self, element: str) -> str:
        """What an element reads."""
        return str(await self.page.evaluate(f"document.getElementById({json.dumps(element)}).textContent"))

    def chains(self) -> list[Event]:
        """The chains that answered, oldest first."""
        return [event for event in self.events if event["event"] == "chain"]

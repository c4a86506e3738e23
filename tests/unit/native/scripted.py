"""A swarm that says what it is told to: hidden states are one-hot, the head is the identity."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import numpy as np

from kwaainet.errors import KwaaiNetError
from kwaainet.inference.head import LanguageHead
from kwaainet.native.completion import Completer
from kwaainet.native.model import Model
from kwaainet.node.client import Client
from kwaainet.ports import Floats


class ScriptedClient:
    """Whatever it is asked, it goes through ``tokens`` and ends with ``end``.

    With ``errors`` one stands in for the step of that number; ``gate`` holds up every step but a
    session's first until it is set. ``steps`` are the sizes of all steps, ``open`` the sessions open now.
    """

    def __init__(self, size: int, tokens: Sequence[int], end: int) -> None:
        self.tokens = [*tokens, end]
        self.errors: dict[int, BaseException] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.lengths: list[int] = []
        self.steps: list[int] = []
        self.open = 0
        self._size = size
        self.request_ids: list[str] = []

    @asynccontextmanager
    async def session(self, max_length: int, request_id: str = "") -> AsyncIterator[ScriptedSession]:
        self.lengths.append(max_length)
        self.request_ids.append(request_id)
        self.open += 1
        try:
            yield ScriptedSession(self, self._size)
        finally:
            await asyncio.sleep(0)  # a real one says good-bye
            self.open -= 1


class ScriptedSession:
    hops: Sequence[Any] = ()

    def __init__(self, client: ScriptedClient, size: int) -> None:
        self._client, self._size, self._count = client, size, 0

    async def step(self, hidden: Floats) -> Floats:
        client = self._client
        client.steps.append(hidden.shape[1])
        if error := client.errors.get(self._count):
            raise error
        if self._count:
            await client.gate.wait()
        output = np.zeros((1, hidden.shape[1], self._size), np.float32)
        output[0, -1, client.tokens[min(self._count, len(client.tokens) - 1)]] = 1.0
        self._count += 1
        return output


def scripted(
    model: Model, text: str | Sequence[int] = "hello", error: KwaaiNetError | None = None
) -> Completer:
    """A completer of ``model`` that answers ``text``; ``error`` fails its first step."""
    tokens = model.tokenizer.encode(text, prefix=False) if isinstance(text, str) else text
    size = model.config.vocab_size
    identity = np.eye(size, dtype=np.float32)
    head = LanguageHead(identity, np.ones(size, np.float32), identity, 1e-6)
    client = ScriptedClient(size, tokens, min(model.stop_tokens))
    if error:
        client.errors[0] = error
    return Completer(model, head, cast(Client, client), "print", 640)

"""Completes prompts through the swarm: what ``kwaainet generate`` and the OpenAI endpoint have in common.

Rule of the file: the head's matrices (a tenth of a second a token for a large vocabulary), templates and
tokenizers compute in threads, never on the event loop; one head is shared by all who complete.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

import numpy as np

from ..errors import ApiError
from ..inference.head import LanguageHead
from ..inference.sampling import Sampling, choose
from ..inference.stopping import StopMatcher
from ..node.chain_session import ChainSession
from ..node.client import Client
from ..ports import Floats
from ..swarm.routing import Hop
from .chat import render_chat
from .model import Model

MAX_STEP_BYTES = 8 << 20  # hidden states of one step; a longer prompt takes several

Finish = Literal["stop", "length"]
Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """What to complete and how. The completion ends before any text of ``stop``."""

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    stop: Sequence[str] = ()
    request_id: str = ""  # of who asked for it, for the logs of all that serve it


@dataclass(frozen=True, slots=True)
class Piece:
    """More text, which may be empty, and the tokens so far; the last piece says why it is the last."""

    text: str
    tokens: int
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Completer:
    """One model: its text side, its head, and the client that knows its servers."""

    model: Model
    head: LanguageHead
    client: Client
    fingerprint: str  # of all weights: with the same one, a seed gives the same text
    longest_text: int  # characters; of a longer one no tokens fit the model

    @classmethod
    async def load(cls, model: Model, client: Client) -> Completer:
        """Read the head, and the tokenizer if it can be used; raises ``InputError`` if it cannot."""
        head = await asyncio.to_thread(model.load_head)
        await asyncio.to_thread(lambda: model.tokenizer)
        digest = await asyncio.to_thread(lambda: sha256(model.manifest.to_json().encode()))
        vocabulary = model.tokenizer.vocabulary
        longest = max(map(len, (*vocabulary.ids, *vocabulary.added)))
        longest_text = longest * model.config.max_position_embeddings
        return cls(model, head, client, digest.hexdigest()[:10], longest_text)

    async def text_prompt(self, text: str) -> list[int]:
        """The tokens of a text as it is; ``ApiError`` at once for one that no tokenizing could make fit."""
        if len(text) > self.longest_text:
            raise ApiError(
                f"the prompt has {len(text)} characters; this model holds "
                f"{self.model.config.max_position_embeddings} tokens, at most {self.longest_text} characters",
                code="context_length_exceeded",
            )
        return await asyncio.to_thread(self.model.tokenizer.encode, text)

    async def chat_prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation by the model's chat template; ``InputError`` if it has none."""
        text = await asyncio.to_thread(render_chat, self.model, messages)
        return await self.text_prompt(text)

    def room(self, prompt: Sequence[int]) -> int:
        """How many tokens the model can hold behind ``prompt``; none behind an empty one."""
        return self.model.config.max_position_embeddings - len(prompt) if prompt else 0

    async def complete(
        self, order: Order, on_chain: Callable[[Sequence[Hop]], None] = lambda hops: None
    ) -> AsyncGenerator[Piece, None]:
        """The completion, piece by piece; close the iterator to end it early.

        Its session at the servers ends with it, in whatever way it ends. Raises ``Unreachable`` where a
        block has no server, or what else the client raises.
        """
        decoder, matcher = self.model.tokenizer.decoder(), StopMatcher(order.stop)
        count = 0
        length = len(order.prompt) + order.max_new_tokens
        async with self.client.session(length, request_id=order.request_id) as session:
            on_chain(session.hops)
            output = await self._feed(session, order.prompt)
            chance = random.Random(order.seed).random
            while True:
                token = await asyncio.to_thread(self._choose, output[0, -1], order.sampling, chance())
                if token in self.model.stop_tokens:
                    finish: Finish = "stop"
                    break
                count += 1
                text = matcher.feed(decoder.feed(token))
                if matcher.stopped:
                    yield Piece(text, count, "stop")
                    return
                yield Piece(text, count)
                if count == order.max_new_tokens:
                    finish = "length"
                    break
                output = await session.step(self.head.embed([token]))
        text = matcher.feed(decoder.finish())
        yield Piece(text + matcher.finish(), count, finish)

    def _choose(self, hidden: Floats, sampling: Sampling, chance: float) -> int:
        return choose(self.head.logits(hidden), sampling, chance)

    async def _feed(self, session: ChainSession, prompt: Sequence[int]) -> Floats:
        """The hidden states of the prompt's last positions, once all of it has been through."""
        size = self.head.embedding.shape[1] * np.dtype(np.float32).itemsize
        at_once = max(MAX_STEP_BYTES // size, 1)
        for start in range(0, len(prompt), at_once):
            output = await session.step(self.head.embed(prompt[start : start + at_once]))
        return output


async def merged(
    completions: Sequence[AsyncGenerator[Piece, None]],
) -> AsyncGenerator[tuple[int, Piece], None]:
    """The pieces of several completions as they come, each with the number of its completion.

    All end with the first that fails, and when this iterator is closed.
    """
    queue: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue(len(completions))

    async def pump(index: int, completion: AsyncGenerator[Piece, None]) -> None:
        try:
            async with aclosing(completion):
                async for piece in completion:
                    await queue.put((index, piece))
            await queue.put((index, None))
        except Exception as error:
            await queue.put((index, error))

    tasks = [asyncio.create_task(pump(index, one)) for index, one in enumerate(completions)]
    running = len(tasks)
    try:
        while running:
            index, news = await queue.get()
            if isinstance(news, Exception):
                raise news
            if news is None:
                running -= 1
            else:
                yield index, news
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

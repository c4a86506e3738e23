"""A tab's chat: conversations in, pieces of text out, through the swarm.

Rule of the file: no JavaScript; what the page is told is a message of ``messages``, and every order
ends with exactly one ``finished`` or ``refused``, unless it is cancelled: then nothing more is said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import cast

from ..errors import CapacityError, ConfigError, InputError, KwaaiNetError
from ..formats.config import ModelConfig
from ..inference.chat import render
from ..inference.head import LanguageHead
from ..inference.sampling import Sampling
from ..inference.stopping import StopMatcher
from ..inference.text import TextSettings
from ..node.client import Client, generate
from ..ports import Clock
from ..swarm.routing import Hop
from . import chat_messages as messages

log = logging.getLogger(__name__)

MAX_ORDERS = 4  # at once: a page has one reader
MAX_STOPS = 16  # sequences of one order; OpenAI allows 4

Tell = Callable[[messages.ClientToPage], None]


@dataclass(frozen=True, slots=True)
class ChatModel:
    """What of a model the chat's own side computes with."""

    config: ModelConfig
    text: TextSettings
    head: LanguageHead

    def prompt(self, conversation: Sequence[messages.ChatMessage], now: datetime) -> list[int]:
        """Token ids for a reply to ``conversation``. Raises ``InputError``."""
        if self.text.chat_template is None:
            raise InputError("this model has no chat template, so it cannot be talked to")
        text = render(self.text.chat_template, conversation, self.text.special_tokens, now=now)
        return self.text.load_tokenizer().encode(text)


class Chat:
    """Answers orders, each in a session of its own; ``now`` counts seconds for its figures only."""

    def __init__(self, model: ChatModel, client: Client, tell: Tell, now: Clock) -> None:
        self._model, self._client, self._tell, self._now = model, client, tell, now
        self._orders: dict[int, asyncio.Task[None]] = {}

    def order(self, order: messages.Complete) -> None:
        """Begin to answer; what becomes of it is told."""
        number = order["id"]
        if len(self._orders) >= MAX_ORDERS:
            return self._refuse(number, CapacityError(f"{MAX_ORDERS} answers are under way; wait for one"))
        task = asyncio.ensure_future(self._answer(order))
        self._orders[number] = task
        task.add_done_callback(lambda _: self._orders.pop(number, None))

    def cancel(self, number: int) -> None:
        """End an order now; its session is ended at every server. Unknown ones are over already."""
        if number in self._orders:
            self._orders[number].cancel()

    async def close(self) -> None:
        """Cancel all orders and wait for their sessions to end."""
        tasks = list(self._orders.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, order: messages.Complete) -> None:
        try:
            await self._complete(order)
        except (KwaaiNetError, TimeoutError) as error:
            self._refuse(order["id"], error)
        except Exception as error:
            log.exception("an answer failed")
            self._refuse(order["id"], error)

    async def _complete(self, order: messages.Complete) -> None:
        number, most = order["id"], order["max_tokens"]
        sampling = Sampling(order["temperature"], 0, order["top_p"])
        prompt = self._model.prompt(order["messages"], datetime.now())
        longest = self._model.config.max_position_embeddings
        if most < 1 or len(prompt) + most > longest or len(order["stop"]) > MAX_STOPS:
            raise ConfigError(
                f"the conversation has {len(prompt)} tokens, {most} more and {len(order['stop'])} stop texts "
                f"were asked for; {longest} tokens, one of them new, and {MAX_STOPS} are allowed"
            )
        async with self._client.session(len(prompt) + most) as session:
            reply = _Reply(number, self._model.text, order["stop"], self._tell, self._now)
            reply.tell_chain(session.hops, session.failovers)
            tokens = generate(
                session,
                self._model.head,
                prompt,
                most,
                sampling=sampling,
                chance=Random(order.get("seed")).random,
                stop=self._model.text.stop_tokens,
            )
            async with aclosing(cast(AsyncGenerator[int, None], tokens)):
                async for token in tokens:
                    reply.tell_chain(session.hops, session.failovers)
                    if reply.take(token):
                        break
        reply.finish(len(prompt), most)

    def _refuse(self, number: int, error: Exception) -> None:
        message = str(error) or type(error).__name__
        self._tell({"type": "refused", "id": number, "error": type(error).__name__, "message": message})


class _Reply:
    """The text of one answer as it grows, and the chain it came through last."""

    def __init__(self, number: int, text: TextSettings, stop: Sequence[str], tell: Tell, now: Clock) -> None:
        self._number, self._tell, self._now = number, tell, now
        self._decoder, self._matcher = text.load_tokenizer().decoder(), StopMatcher(stop)
        self._chain: tuple[list[Hop], int] = [], 0
        self._count = 0
        self._begun = self._first = self._last = now()

    def tell_chain(self, hops: Sequence[Hop], failovers: int) -> None:
        """Only what is new: the first chain, and what took the place of a lost hop, itself perhaps."""
        if (list(hops), failovers) == self._chain:
            return
        self._chain = list(hops), failovers
        told: list[messages.HopReport] = [
            {"peer": str(hop.peer), "start": hop.blocks.start, "end": hop.blocks.end} for hop in hops
        ]
        self._tell({"type": "chain", "id": self._number, "hops": told})

    def take(self, token: int) -> bool:
        """One more token; whether its text completes a stop sequence."""
        self._count += 1
        self._last = self._now()
        if self._count == 1:
            self._first = self._last
        self._say(self._matcher.feed(self._decoder.feed(token)))
        return self._matcher.stopped

    def finish(self, prompt_tokens: int, most: int) -> None:
        """Say what was held back, and how it ended."""
        if not self._matcher.stopped:
            text = self._matcher.feed(self._decoder.finish())
            self._say(text + self._matcher.finish())
        whole = self._matcher.stopped or self._count < most
        self._tell(
            {
                "type": "finished",
                "id": self._number,
                "reason": "stop" if whole else "length",
                "prompt_tokens": prompt_tokens,
                "completion_tokens": self._count,
                "first_token_ms": (self._first - self._begun) * 1e3,
                "decoding_ms": (self._last - self._first) * 1e3,
            }
        )

    def _say(self, text: str) -> None:
        if text:
            self._tell({"type": "piece", "id": self._number, "text": text, "tokens": self._count})

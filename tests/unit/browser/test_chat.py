"""What the page hears of its orders, from a chain that says the next letter of the alphabet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from kwaainet.browser.chat import MAX_ORDERS, Chat, ChatModel
from kwaainet.errors import InputError, Unreachable
from kwaainet.inference.head import LanguageHead
from kwaainet.inference.text import TextSettings
from kwaainet.inference.tokenizer import _ALPHABET, Tokenizer
from kwaainet.inference.vocabulary import Vocabulary
from kwaainet.ports import Floats
from kwaainet.swarm.routing import Hop
from kwaainet.testing.clock import now, run
from kwaainet.testing.model import TINY
from kwaainet.types import BlockRange, PeerId

IDS = {character: number for number, character in enumerate(_ALPHABET)}
TOKENIZER = Tokenizer(Vocabulary(IDS, [], "gpt-2"))
TEXT = TextSettings(lambda: TOKENIZER, "{{ messages[-1].content }}", {}, frozenset({IDS["z"]}))
IDENTITY = np.eye(len(IDS), dtype=np.float32)
HEAD = LanguageHead(IDENTITY, np.ones(len(IDS), np.float32), IDENTITY, 1e-6)
MODEL = ChatModel(TINY, TEXT, HEAD)
HOPS = [Hop(PeerId(bytes([0, 1, n])), BlockRange(0, 5)) for n in range(3)]


@dataclass
class NextLetter:
    """A ``Client`` whose sessions answer each step, a second apart, with the next letter."""

    lose_at: int = 100  # the step in which the first hop is replaced
    return_at: int = 100  # the step in which it takes its own place
    fail_at: int = 100  # the step that nobody can compute
    lengths: list[int] = field(default_factory=list)
    open: int = 0
    steps: int = 0
    hops: list[Hop] = field(default_factory=lambda: [HOPS[0], HOPS[1]])
    failovers: int = 0

    @asynccontextmanager
    async def session(self, max_length: int, batch: int = 1) -> AsyncIterator[NextLetter]:
        self.lengths.append(max_length)
        self.open += 1
        try:
            yield self
        finally:
            self.open -= 1

    async def step(self, hidden: Floats) -> Floats:
        await asyncio.sleep(1)
        self.steps += 1
        if self.steps == self.fail_at:
            raise Unreachable("nobody holds blocks 0:5")
        if self.steps == self.lose_at:
            self.hops = [HOPS[2], HOPS[1]]
        if self.steps in (self.lose_at, self.return_at):
            self.failovers += 1
        return np.roll(hidden, 1, axis=-1)


@dataclass
class Page:
    """The chat and what it told."""

    client: Any = field(default_factory=NextLetter)
    told: list[Any] = field(default_factory=list)
    model: ChatModel = MODEL

    def __post_init__(self) -> None:
        self.chat = Chat(self.model, self.client, self.told.append, now)

    def order(self, content: str, number: int = 1, **changes: Any) -> None:
        order: Any = {
            "type": "complete",
            "id": number,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 5,
            "temperature": 0.0,
            "top_p": 1.0,
            "stop": [],
        }
        self.chat.order(order | changes)

    def of(self, kind: str) -> list[Any]:
        return [message for message in self.told if message["type"] == kind]

    def text(self) -> str:
        return "".join(piece["text"] for piece in self.of("piece"))


def ordered(content: str, page: Page | None = None, **changes: Any) -> Page:
    """A page whose one order has run to its end."""
    page = page or Page()

    async def main() -> None:
        page.order(content, **changes)
        await asyncio.sleep(60)
        assert page.client.open == 0

    run(main())
    return page


def test_an_answer_to_its_end() -> None:
    page = ordered("ab")
    assert page.text() == "cdefg"
    assert [piece["tokens"] for piece in page.of("piece")] == [1, 2, 3, 4, 5]
    assert page.client.lengths == [7]
    assert page.of("chain") == [
        {
            "type": "chain",
            "id": 1,
            "hops": [{"peer": str(hop.peer), "start": 0, "end": 5} for hop in HOPS[:2]],
        }
    ]
    assert page.told[-1] == {
        "type": "finished",
        "id": 1,
        "reason": "length",
        "prompt_tokens": 2,
        "completion_tokens": 5,
        "first_token_ms": pytest.approx(1000),
        "decoding_ms": pytest.approx(4000),
    }


def test_a_stop_token_and_a_stop_text_end_it() -> None:
    page = ordered("ax")
    assert (page.text(), page.told[-1]["reason"]) == ("y", "stop")
    page = ordered("a", stop=["de"])
    assert (page.text(), page.told[-1]["reason"], page.told[-1]["completion_tokens"]) == ("bc", "stop", 4)
    page = ordered("a", stop=["fx"])
    assert (page.text(), page.told[-1]["reason"]) == ("bcdef", "length"), "held back in vain"


def test_a_lost_hop_is_told_once() -> None:
    page = ordered("a", Page(NextLetter(lose_at=3)))
    first, second = page.of("chain")
    assert [hop["peer"] for hop in second["hops"]] == [str(HOPS[2].peer), str(HOPS[1].peer)]
    assert page.told.index(second) < page.told.index(page.of("piece")[2])
    assert first["hops"] != second["hops"]
    assert page.text() == "bcdef"


def test_one_that_takes_its_own_place_is_told() -> None:
    page = ordered("a", Page(NextLetter(return_at=3)))
    first, second = page.of("chain")
    assert first == second
    assert page.told.index(page.of("piece")[1]) < len(page.told) - 1 - page.told[::-1].index(second)


def test_what_fails_is_refused_by_its_name() -> None:
    page = ordered("a", Page(NextLetter(fail_at=3)))
    assert page.text() == "bc"
    assert page.told[-1] == {
        "type": "refused",
        "id": 1,
        "error": "Unreachable",
        "message": "nobody holds blocks 0:5",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 0}, "1 tokens, 0 more"),
        ({"max_tokens": 96}, "96 more and 0 stop texts were asked for; 96 tokens, one of them new"),
        ({"stop": ["x"] * 17}, "17 stop texts"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"messages": []}, "chat template fails"),
    ],
)
def test_orders_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    page = ordered("a", **changes)
    [refused] = page.told
    assert (refused["type"], refused["id"]) == ("refused", 1)
    assert message in refused["message"]
    assert page.client.lengths == []


def test_a_bug_of_ours_ends_the_order_too() -> None:
    class Broken(NextLetter):
        async def step(self, hidden: Floats) -> Floats:
            raise ZeroDivisionError

    [_, refused] = ordered("a", Page(Broken())).told
    assert refused["error"] == "ZeroDivisionError"


def test_a_seed_repeats_an_answer() -> None:
    soft = replace(MODEL, head=replace(HEAD, lm_head=IDENTITY * np.float32(0.1)))
    texts = {ordered("a", Page(model=soft), temperature=1.0, seed=seed).text() for seed in (1, 1, 2, 3)}
    assert len(texts) == 3


@pytest.mark.parametrize("end", [lambda chat: chat.cancel(1), lambda chat: chat.close()])
def test_a_cancelled_order_says_no_more(end: Callable[[Chat], Any]) -> None:
    async def main() -> None:
        page = Page()
        page.order("a")
        await asyncio.sleep(2.5)
        closing = end(page.chat)
        if closing is not None:
            await closing
        await asyncio.sleep(60)
        assert (page.text(), page.client.open) == ("bc", 0)
        assert page.of("finished") + page.of("refused") == []
        page.chat.cancel(1)

    run(main())


def test_only_so_many_orders_at_once() -> None:
    async def main() -> None:
        page = Page()
        for number in range(MAX_ORDERS + 1):
            page.order("a", number)
        await asyncio.sleep(60)
        [refused] = page.of("refused")
        assert (refused["id"], refused["error"]) == (MAX_ORDERS, "CapacityError")
        assert len(page.of("finished")) == MAX_ORDERS
        page.order("a", 9)
        await asyncio.sleep(60)
        assert page.told[-1]["id"] == 9

    run(main())


def test_a_model_without_a_template_cannot_be_talked_to() -> None:
    mute = replace(MODEL, text=replace(TEXT, chat_template=None))
    with pytest.raises(InputError, match="no chat template"):
        mute.prompt([{"role": "user", "content": "a"}], datetime(2026, 1, 1))

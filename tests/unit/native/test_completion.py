"""Text out of tokens: stops, ends, characters of several tokens, sessions that end when it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, cast

import numpy as np
import pytest
from unit.native.scripted import ScriptedClient, scripted

from kwaainet.errors import ApiError, InputError, Unreachable
from kwaainet.inference.sampling import Sampling
from kwaainet.native import completion as module
from kwaainet.native.completion import Completer, Order, Piece, merged
from kwaainet.native.model import Model


async def collect(completer: Completer, **order: Any) -> list[Piece]:
    return [
        piece async for piece in completer.complete(Order(**{"prompt": [2, 3], "max_new_tokens": 9, **order}))
    ]


def client_of(completer: Completer) -> ScriptedClient:
    return cast(ScriptedClient, completer.client)


def texts(pieces: list[Piece]) -> tuple[list[str], str | None, int]:
    return [piece.text for piece in pieces], pieces[-1].finish, pieces[-1].tokens


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


def test_a_completion_ends_by_itself_or_by_its_length(tiny_model: Model) -> None:
    completer = scripted(tiny_model, "hello")
    assert texts(run(collect(completer))) == (["hello", ""], "stop", 1)
    completer = scripted(tiny_model, "abc")
    assert texts(run(collect(completer, max_new_tokens=2))) == (["a", "b", ""], "length", 2)
    assert texts(run(collect(completer, max_new_tokens=3))) == (["a", "b", "c", ""], "length", 3)
    assert texts(run(collect(completer, max_new_tokens=4))) == (["a", "b", "c", ""], "stop", 3)
    client = client_of(completer)
    assert client.lengths == [4, 5, 6]
    assert client.steps == [2, 1, 2, 1, 1, 2, 1, 1, 1]  # the last token of a full length is not run
    assert client.open == 0


def test_a_stop_over_tokens_is_not_shown(tiny_model: Model) -> None:
    completer = scripted(tiny_model, "one\n\ntwo")
    pieces = run(collect(completer, stop=["\n\n", "xyz"]))
    assert texts(pieces) == (["o", "n", "e", "", ""], "stop", 5)
    assert client_of(completer).steps == [2, 1, 1, 1, 1]
    # what only looked like a beginning comes in the end
    assert texts(run(collect(scripted(tiny_model, "a\n"), stop=["\n\n"])))[0] == ["a", "", "\n"]


def test_a_character_comes_whole_and_a_broken_one_is_marked(tiny_model: Model) -> None:
    assert texts(run(collect(scripted(tiny_model, "ä😀"))))[0] == ["", "ä", "", "", "", "😀", ""]
    pieces = run(collect(scripted(tiny_model, "ä😀"), max_new_tokens=5))
    assert texts(pieces) == (["", "ä", "", "", "", "\ufffd"], "length", 5)


def test_the_same_seed_gives_the_same_text(tiny_model: Model) -> None:
    def sampled(seed: int | None) -> list[str]:
        return texts(run(collect(scripted(tiny_model, "abcdefgh"), sampling=Sampling(20.0), seed=seed)))[0]

    assert sampled(1) == sampled(1)
    assert len({tuple(sampled(None)) for _ in range(4)}) > 1


def test_a_long_prompt_goes_in_several_steps(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    completer = scripted(tiny_model, "x")
    monkeypatch.setattr(module, "MAX_STEP_BYTES", 3 * 4 * tiny_model.config.vocab_size)
    assert texts(run(collect(completer, prompt=list(range(7)))))[1] == "stop"
    assert client_of(completer).steps == [3, 3, 1]
    assert (completer.room([]), completer.room([1] * 60), completer.room([1] * 99)) == (0, 4, -35)


def test_prompts_are_texts_or_conversations(tiny_model: Model) -> None:
    completer = scripted(tiny_model)
    talk = run(completer.chat_prompt([{"role": "user", "content": "hello"}]))
    assert talk == [0, *run(completer.text_prompt("hello")), 1]
    with pytest.raises(InputError, match="surrogate"):
        run(completer.text_prompt("\ud800"))


def test_loading_gives_the_models_own_head(tiny_model: Model) -> None:
    client = cast(Any, None)
    completer = run(Completer.load(tiny_model, client))
    np.testing.assert_array_equal(completer.head.norm, tiny_model.load_head().norm)
    assert len(completer.fingerprint) == 10
    assert completer.longest_text == 64 * len("<|start|>")
    with pytest.raises(ApiError, match="577 characters"):
        run(completer.text_prompt("x" * 577))


@pytest.mark.parametrize("way", ["closed", "cancelled", "failed"])
def test_a_session_ends_with_its_completion(tiny_model: Model, way: str) -> None:
    async def main() -> None:
        completer = scripted(tiny_model, "abc")
        client = client_of(completer)
        client.gate.clear()
        client.errors = {1: Unreachable("it is gone")} if way == "failed" else {}
        pieces = merged([completer.complete(Order([2], 9)), completer.complete(Order([2], 9))])
        if way == "failed":
            with pytest.raises(Unreachable):
                [piece async for piece in pieces]
        else:
            assert {(await anext(pieces))[0], (await anext(pieces))[0]} == {0, 1}
            assert client.open == 2
        if way == "closed":
            await pieces.aclose()
        elif way == "cancelled":
            waiting = asyncio.ensure_future(anext(pieces))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert client.open == 0

    run(main())


def test_merged_completions_keep_their_own_order(tiny_model: Model) -> None:
    async def main() -> None:
        async def source(text: str) -> AsyncGenerator[Piece, None]:
            for count, letter in enumerate(text):
                await asyncio.sleep(0)
                yield Piece(letter, count)

        seen = ["", "", ""]
        async with aclosing(merged([source("abc"), source(""), source("de")])) as pieces:
            async for index, piece in pieces:
                seen[index] += piece.text
        assert seen == ["abc", "", "de"]

    run(main())

"""Tokens equal those of ``tokenizers``; streamed text never shows half a character."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from kwaainet.errors import InputError
from kwaainet.inference.tokenizer import Tokenizer, merge
from kwaainet.inference.vocabulary import Vocabulary

CORPUS = (
    "The quick brown fox jumps over the lazy dog. It's 2024, isn't it? Wir grüßen die schöne Welt! "
    "これは日本語の文です。 aaaa aaaaaaa \n\n\tdef f(x):\n\t    return x ** 2  # 😀😀👍🏽\r\n"
)


@pytest.fixture(scope="session")
def oracle() -> tokenizers.Tokenizer:
    """A small vocabulary trained by ``tokenizers`` itself, with special and other added tokens."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|end|>", "<|end|>er", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator([CORPUS] * 3, trainer)
    trained.add_tokens([tokenizers.AddedToken("   ", normalized=False)])
    return trained


@pytest.fixture(scope="session")
def ours(oracle: tokenizers.Tokenizer) -> Tokenizer:
    return Tokenizer.from_json(oracle.to_str())


pieces = st.sampled_from(
    ["<|end|>", "<|end|>er", "<s>", "<|end", "   ", " the", "aaa", "😀", "👍🏽", "ß", "12", "\r\n"]
)
texts = st.lists(pieces | st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=8)).map("".join)


@given(texts)
def test_ids_equal_the_oracles(oracle: tokenizers.Tokenizer, ours: Tokenizer, text: str) -> None:
    assert ours.encode(text) == oracle.encode(text).ids


@given(texts)
def test_text_of_strangers_has_no_control_tokens(
    oracle: tokenizers.Tokenizer, ours: Tokenizer, text: str
) -> None:
    plain = tokenizers.Tokenizer.from_str(oracle.to_str())
    plain.encode_special_tokens = True
    ids = ours.encode(text, special=False)
    assert ids == plain.encode(text).ids
    assert not {0, 1, 2} & set(ids)


@given(texts)
def test_decoding_gives_the_text_back(ours: Tokenizer, text: str) -> None:
    assert ours.decode(ours.encode(text)) == text
    assert ours.decode(ours.encode(text, special=False)) == text


@given(st.lists(st.integers(0, 599), max_size=20), st.booleans())
def test_any_ids_decode_as_the_oracles(
    oracle: tokenizers.Tokenizer, ours: Tokenizer, ids: list[int], skip: bool
) -> None:
    expected = oracle.decode(ids, skip_special_tokens=skip)
    assert ours.decode(ids, skip_special=skip) == expected
    decoder = ours.decoder(skip_special=skip)
    assert "".join(map(decoder.feed, ids)) + decoder.finish() == expected


def test_streamed_text_has_no_half_characters(ours: Tokenizer) -> None:
    decoder = ours.decoder()
    text = "né 👍🏽 語"
    shown = [decoder.feed(ours.vocabulary.ids[character]) for character in _spell(text)]
    assert "".join(shown) == text
    assert "" in shown
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in shown)
    assert decoder.feed(ours.vocabulary.ids[_spell("é")[0]]) == ""
    assert decoder.finish() == "\N{REPLACEMENT CHARACTER}"


def _spell(text: str) -> list[str]:
    oracle = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return list(oracle.pre_tokenize_str(text)[0][0])


def test_ids_without_a_token_say_nothing(ours: Tokenizer) -> None:
    assert ours.decode([-1, 10**6, ours.encode("a")[0]]) == "a"
    assert ours.token(10**6) is None
    assert ours.token_id("<|end|>") == 0
    assert ours.token(0) == "<|end|>"


def test_lone_surrogates_are_refused(ours: Tokenizer) -> None:
    with pytest.raises(InputError, match="lone surrogate"):
        ours.encode("a\ud800b")


def test_long_words_do_not_stall(oracle: tokenizers.Tokenizer, ours: Tokenizer) -> None:
    text = "a" * 20_000  # quadratic merging would take minutes
    assert ours.encode(text) == oracle.encode(text).ids


def test_prefix_is_put_once(tiny_metadata: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_gguf_metadata(tiny_metadata | {"tokenizer.ggml.add_bos_token": True})
    hello = tokenizer.encode("hello", prefix=False)
    assert len(hello) == 1
    assert tokenizer.encode("hello") == [0, *hello]
    assert tokenizer.encode("<|start|>hello") == [0, *hello]  # as chat templates write it
    theirs = tokenizers.Tokenizer.from_str(tokenizer.vocabulary.to_json())
    assert theirs.encode("hello").ids == [0, *hello]


def test_a_decomposed_text_is_composed_where_the_model_wants_it(tiny_metadata: dict[str, Any]) -> None:
    ours = Tokenizer.from_gguf_metadata(tiny_metadata | {"tokenizer.ggml.pre": "qwen2"})
    theirs = tokenizers.Tokenizer.from_str(ours.vocabulary.to_json())
    for text in "e\u0301 hello 1234", "<|end|>A\u030a\u1e69", "\u1100\u1161":
        assert ours.encode(text) == theirs.encode(text).ids
    assert ours.decode(ours.encode("e\u0301")) == "\xe9"


def test_words_that_are_tokens_need_no_merges(tiny_tokenizer_json: dict[str, Any]) -> None:
    value = json.loads(json.dumps(tiny_tokenizer_json))
    value["model"]["vocab"]["Ġhello"] = 1000  # no merge leads there
    for ignore in (False, True):
        value["model"]["ignore_merges"] = ignore
        text = json.dumps(value)
        ids = Tokenizer(Vocabulary.from_json(text)).encode(" hello")
        assert ids == tokenizers.Tokenizer.from_str(text).encode(" hello").ids
        assert (ids == [1000]) is ignore


def test_merging_goes_by_rank_then_from_the_left() -> None:
    assert merge("aaaaa", {("a", "a"): 0}) == ["aa", "aa", "a"]
    assert merge("abc", {("a", "b"): 1, ("b", "c"): 0}) == ["a", "bc"]
    assert merge("", {}) == []

"""Words are cut where ``tokenizers`` cuts them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from kwaainet.inference.pretokenizer import KINDS, split

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(use_regex: bool) -> pre_tokenizers.ByteLevel:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


ORACLES = {
    "gpt-2": byte_level(True),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]),
    "llama-3": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), byte_level(False)]),
    "qwen2": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN_2), "isolated"), byte_level(False)]),
}

# Assigned characters only: which ones later Unicode versions assign differs among the two.
anything = st.text(st.characters(exclude_categories=("Cs", "Cn")))
tricky = st.text("astrevlmdEVLſKÉ01²Ⅷ一' \t\n\r\x1c\x85\xa0\u2003\u200b!._\u0301😀")


def test_every_kind_has_an_oracle() -> None:
    assert ORACLES.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
@given(anything | tricky)
def test_words_equal_the_oracles(kind: str, text: str) -> None:
    expected = [text[start:end] for _, (start, end) in ORACLES[kind].pre_tokenize_str(text)]
    assert list(split(text, kind)) == expected


@pytest.mark.parametrize("kind", KINDS)
@given(st.text(st.characters()))
def test_nothing_is_lost(kind: str, text: str) -> None:
    words = list(split(text, kind))
    assert "".join(words) == text
    assert all(words)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gpt-2", ["It", "'s", " 1234", "  ", " KM", "'", "LL"]),
        ("smollm", ["It", "'s", " ", "1", "2", "3", "4", "  ", " KM", "'", "LL"]),
        ("llama-3", ["It", "'s", " ", "123", "4", "  ", " KM", "'LL"]),
    ],
)
def test_how_the_kinds_differ(kind: str, words: list[str]) -> None:
    assert list(split("It's 1234   KM'LL", kind)) == words

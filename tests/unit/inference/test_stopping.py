"""Against a reader of one character at a time, for every way of cutting a text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.inference.stopping import StopMatcher

TEXTS = st.text("ab\n😀", max_size=24)


def fed(stops: list[str], *pieces: str) -> tuple[list[str], bool]:
    matcher = StopMatcher(stops)
    shown = [matcher.feed(piece) for piece in pieces]
    return [*shown, matcher.finish()], matcher.stopped


def expected(stops: list[str], text: str) -> tuple[str, bool]:
    """The shortest beginning of the text that ends with a sequence, less the longest one it ends with."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(
    st.lists(st.text("ab\n😀", min_size=1, max_size=4), max_size=4),
    TEXTS,
    st.lists(st.integers(0, 24), max_size=8),
)
def test_any_cut_gives_what_single_characters_give(stops: list[str], text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown, stopped = fed(stops, *(text[a:b] for a, b in pairwise(edges)))
    assert ("".join(shown), stopped) == expected(stops, text)


@pytest.mark.parametrize(
    ("stops", "pieces", "shown"),
    [
        ([], ["a", "b"], ["a", "b", ""]),
        (["\n\n"], ["one\n", "two\n", "\nthree", "four"], ["one", "\ntwo", "", "", ""]),
        (["END"], ["the E", "N", "O"], ["the ", "", "ENO", ""]),
        (["END"], ["the EN"], ["the ", "EN"]),
        (["aab"], ["aaa", "b"], ["a", "", ""]),
        (["b", "abc"], ["abc"], ["a", ""]),
        (["bc", "abc"], ["a", "bc"], ["", "", ""]),
        ([""], ["text"], ["text", ""]),
    ],
)
def test_text_is_held_back_only_as_long_as_it_must_be(
    stops: list[str], pieces: list[str], shown: list[str]
) -> None:
    assert fed(stops, *pieces)[0] == shown

"""Keys of ``config.json`` by their types; what is null is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kwaainet.errors import ModelFileError
from kwaainet.formats.config_json import integer, number, text, token


def test_null_is_left_out() -> None:
    assert (integer({"a": None}, "a", 7), number({"a": None}, "a", 0.5), text({}, "a", "x")) == (7, 0.5, "x")
    assert (integer({"a": 3}, "a", 7), number({"a": 3}, "a", 0.5), text({"a": "y"}, "a", "x")) == (
        3,
        3.0,
        "y",
    )
    with pytest.raises(ModelFileError, match="a is missing"):
        integer({"a": None}, "a")


def test_the_first_of_several_tokens_ends_a_text() -> None:
    assert [token({"a": ids}, "a") for ids in (5, [7, 8], [], None, "5")] == [5, 7, None, None, None]


@pytest.mark.parametrize(
    ("read", "item"),
    [
        (integer, True),
        (integer, 1.0),
        (integer, "1"),
        (number, "1"),
        (number, True),
        (number, 10**400),
        (text, 1),
    ],
)
def test_other_types_are_named(read: Callable[..., Any], item: object) -> None:
    with pytest.raises(ModelFileError, match="a is "):
        read({"a": item}, "a", {integer: 1, number: 1.0, text: "x"}[read])

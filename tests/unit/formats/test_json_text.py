"""JSON from strangers: what json makes of it, unless it is a bomb."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import ModelFileError
from kwaainet.formats.json_text import MAX_DEPTH, parse_object

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON, max_size=4), st.booleans())
def test_objects_are_what_json_says(value: dict[str, Any], escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped)
    assert parse_object(text, "it") == value
    sendable = text.encode(errors="replace")
    assert parse_object(sendable, "it") == json.loads(sendable)


def test_brackets_in_strings_do_not_count() -> None:
    value = {"a": "[" * 1000, '"]}': ["\\", '\\"{[', "\\\\"]}
    assert parse_object(json.dumps(value), "it") == value


def test_the_depth_is_bounded() -> None:
    def nested(depth: int) -> str:
        return '{"a":' * depth + "1" + "}" * depth

    assert parse_object(nested(MAX_DEPTH), "it")
    with pytest.raises(ModelFileError, match="nest deeper than 32 levels"):
        parse_object(nested(MAX_DEPTH + 1), "it")


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b'{"a":' + b"9" * 10_000 + b"}",
        b'{"a":"',
        b'"' * 1_000_001,
        b'{"a":"\\',
        b"\xff",
        b"",
        b"]",
    ],
    ids=range(9),
)
def test_bombs_and_broken_text_are_refused(text: bytes) -> None:
    with pytest.raises(ModelFileError, match="it is not JSON"):
        parse_object(text, "it")


@pytest.mark.parametrize("text", ["[]", "1", "null", '"a"'])
def test_only_an_object_will_do(text: str) -> None:
    with pytest.raises(ModelFileError, match="it is not a JSON object but"):
        parse_object(text, "it")


@given(st.binary())
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        parse_object(data, "it")
    except ModelFileError:
        return
    assert isinstance(json.loads(data), dict)

"""Bodies, chunks and errors as the official client's own types read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from kwaainet import errors
from kwaainet.errors import ApiError
from kwaainet.native.openai_answers import Style, event, failure, model_object, to_json, usage


def style(chat: bool, include_usage: bool = False) -> Style:
    return Style(chat, "id-1", "m", 7, "fp_x", include_usage)


def test_whole_answers() -> None:
    used = usage(3, 4)
    chat = ChatCompletion.model_validate(
        style(True).whole([("a", "stop"), ("b", "length")], used), strict=True
    )
    assert [(one.index, one.message.content, one.finish_reason) for one in chat.choices] == [
        (0, "a", "stop"),
        (1, "b", "length"),
    ]
    assert chat.usage is not None
    assert chat.usage.total_tokens == 7
    text = Completion.model_validate(style(False).whole([("a", "stop")], used), strict=True)
    assert (text.object, text.choices[0].text, text.model, text.created) == ("text_completion", "a", "m", 7)


def test_a_stream_of_a_chat() -> None:
    one = style(True, include_usage=True)
    chunks = [*one.opening(0), *one.piece(0, "a", None), *one.piece(0, "", None), *one.piece(0, "b", "stop")]
    read = [
        ChatCompletionChunk.model_validate(chunk, strict=True)
        for chunk in [*chunks, *one.closing(usage(1, 2))]
    ]
    assert [chunk.choices[0].delta.role for chunk in read[:2]] == ["assistant", None]
    assert [chunk.choices[0].delta.content for chunk in read[:4]] == ["", "a", "b", None]
    assert [chunk.choices[0].finish_reason for chunk in read[:4]] == [None, None, None, "stop"]
    assert all("usage" in chunk and chunk["usage"] is None for chunk in chunks)
    assert (read[4].choices, read[4].usage and read[4].usage.total_tokens) == ([], 3)


def test_a_stream_of_a_text() -> None:
    one = style(False)
    chunks = [*one.opening(0), *one.piece(1, "a", None), *one.piece(1, "", None), *one.piece(1, "", "length")]
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["a", ""]
    assert (one.closing(usage(1, 1)), "usage" in chunks[0]) == ([], False)


def test_json_is_one_line_of_utf_8() -> None:
    assert event({"a": "größe\n😀"}) == 'data: {"a":"größe\\n😀"}\n\n'.encode()
    assert to_json("\ud800") == b'"?"'
    assert Model.model_validate(model_object("m", 1, 8), strict=True).id == "m"


@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "retry"),
    [
        (ApiError("x", param="n"), 400, "invalid_request_error", None, None),
        (
            ApiError("x", status=401, code="invalid_api_key"),
            401,
            "invalid_request_error",
            "invalid_api_key",
            None,
        ),
        (ApiError("x", status=429, code="c", retry_after=0.2), 429, "rate_limit_error", "c", 1),
        (ApiError("x", status=429, code="c", retry_after=1.2), 429, "rate_limit_error", "c", 2),
        (errors.InputError("x"), 400, "invalid_request_error", None, None),
        (errors.Unreachable("no server for block 3"), 503, "server_error", "no_server", 5),
        (errors.CapacityError("x"), 503, "server_error", "overloaded", 5),
        (errors.RpcError("x"), 503, "server_error", "server_failed", 5),
        (TimeoutError(), 503, "server_error", "server_failed", 5),
        (errors.UsageError("x"), 500, "server_error", "internal_error", None),
        (ZeroDivisionError("secret"), 500, "server_error", "internal_error", None),
    ],
)
def test_errors(error: Exception, status: int, kind: str, code: str | None, retry: int | None) -> None:
    found = failure(error)
    body: dict[str, Any] = json.loads(to_json(found.body))["error"]
    assert (found.status, body["type"], body["code"], found.retry_after) == (status, kind, code, retry)
    assert body.keys() == {"message", "type", "param", "code"}
    assert "secret" not in body["message"]

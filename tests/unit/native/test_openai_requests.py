"""What clients send is understood; what cannot be obeyed is refused by name, never dropped in silence."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import ApiError
from kwaainet.inference.sampling import Sampling
from kwaainet.native.openai_requests import MIN_TOP_P, ChatRequest, TextRequest, read_chat, read_completion

HI = {"role": "user", "content": "hi"}


def chat(**fields: Any) -> ChatRequest:
    return read_chat(json.dumps({"model": "m", "messages": [HI], **fields}).encode())


def text(**fields: Any) -> TextRequest:
    return read_completion(json.dumps({"model": "m", "prompt": "hi", **fields}).encode())


def refusal(call: Any, **fields: Any) -> tuple[int, str | None, str | None]:
    with pytest.raises(ApiError) as caught:
        call(**fields)
    return caught.value.status, caught.value.param, caught.value.code


def test_defaults_are_openais() -> None:
    wanted = chat().wanted
    assert (wanted.model, wanted.max_tokens, wanted.sampling) == ("m", None, Sampling(1.0, 0, 1.0))
    assert (wanted.seed, wanted.stop, wanted.n, wanted.stream, wanted.include_usage) == (
        None,
        (),
        1,
        False,
        False,
    )
    assert text().wanted.max_tokens == 16
    assert text().prompts == ("hi",)


def test_fields_are_read() -> None:
    wanted = chat(
        max_tokens=5, temperature=0, top_p=0.5, top_k=7, seed=-3, stop="end", n=2, stream=True,
        stream_options={"include_usage": True},
    ).wanted  # fmt: skip
    assert wanted.sampling == Sampling(0.0, 7, 0.5)
    assert (wanted.max_tokens, wanted.seed, wanted.stop, wanted.n) == (5, -3, ("end",), 2)
    assert (wanted.stream, wanted.include_usage) == (True, True)
    assert chat(max_tokens=5, max_completion_tokens=7).wanted.max_tokens == 7
    assert chat(top_p=0, top_k=-1).wanted.sampling == Sampling(1.0, 0, MIN_TOP_P)
    assert chat(stop=["a", "b"]).wanted.stop == ("a", "b")


def test_what_clients_send_unasked_is_let_pass() -> None:
    chat(
        frequency_penalty=0, presence_penalty=0.0, logit_bias={}, logprobs=False, top_logprobs=0, n=1,
        tools=[], tool_choice="auto", response_format={"type": "text"}, user="me", metadata={"a": "b"},
        store=False, service_tier="auto", parallel_tool_calls=True, stream=False, stop=None, seed=None,
        max_tokens=None, reasoning_effort="low", modalities=["text"], of_their_own={"x": [1]},
    )  # fmt: skip
    text(best_of=1, echo=False, suffix=None, logprobs=None, logit_bias=None)


def test_messages_are_roles_and_texts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    asked = chat(messages=[
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": parts, "name": "ann"},
        {"role": "assistant", "content": None},
    ])  # fmt: skip
    assert asked.messages == (
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": ""},
    )


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
        ("", ("",)),
    ],
)
def test_prompts_of_every_form(prompt: Any, prompts: Any) -> None:
    asked = text(prompt=prompt)
    assert (asked.prompts, asked.choices) == (prompts, len(prompts))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]), ("tool_choice", "required"), ("functions", [{}]),
        ("response_format", {"type": "json_object"}), ("logprobs", True), ("top_logprobs", 2),
        ("logit_bias", {"1": 2}), ("frequency_penalty", 0.5), ("presence_penalty", -1),
        ("repetition_penalty", 1.1), ("min_p", 0.1), ("best_of", 2), ("echo", True), ("suffix", "x"),
        ("modalities", ["audio"]), ("guided_json", {}), ("structured_outputs", {}), ("logprobs", 0),
        ("prediction", {}), ("ignore_eos", True), ("grammar", "root"), ("echo", 0),
    ],
)  # fmt: skip
def test_what_would_be_missed_is_refused_by_name(name: str, value: Any) -> None:
    assert refusal(chat, **{name: value}) == refusal(text, **{name: value}) == (400, name, "unsupported")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"), ({"model": 5}, "model"), ({"model": ""}, "model"),
        ({"messages": None}, "messages"), ({"messages": []}, "messages"), ({"messages": "hi"}, "messages"),
        ({"messages": [5]}, "messages[0]"), ({"messages": [HI, {}]}, "messages[1].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [1]}]}, "messages[0].tool_calls"),
        ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"), ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"temperature": -0.1}, "temperature"), ({"temperature": 2.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"), ({"temperature": "1"}, "temperature"),
        ({"temperature": 10**400}, "temperature"), ({"top_p": 1.1}, "top_p"), ({"top_p": True}, "top_p"),
        ({"top_k": -2}, "top_k"), ({"seed": 1 << 63}, "seed"), ({"seed": 1.0}, "seed"),
        ({"n": 0}, "n"), ({"n": 5}, "n"), ({"stream": "yes"}, "stream"), ({"stream": 1}, "stream"),
        ({"stop": ["a"] * 5}, "stop"), ({"stop": [""]}, "stop"), ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop": {}}, "stop"), ({"stop": "x" * 257}, "stop"),
        ({"stream_options": {}}, "stream_options"), ({"stream": True, "stream_options": 1}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "include_usage"),
    ],
)  # fmt: skip
def test_a_field_that_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    status, named, _ = refusal(chat, **fields)
    assert (status, named) == (400, param)


@pytest.mark.parametrize(
    "fields",
    [{"prompt": None}, {"prompt": []}, {"prompt": ["a"] * 5}, {"prompt": [1, "a"]}, {"prompt": [[1], []]},
     {"prompt": [True]}, {"prompt": {"a": 1}}, {"prompt": ["a", "b", "c"], "n": 2}],
)  # fmt: skip
def test_a_prompt_that_is_wrong_is_named(fields: dict[str, Any]) -> None:
    assert refusal(text, **fields)[:2] == (400, "prompt")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"a":' * 50 + b"1" + b"}" * 50]
)
def test_what_is_no_object_is_refused(body: bytes) -> None:
    for read in (read_chat, read_completion):
        with pytest.raises(ApiError, match="request body"):
            read(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    ["model", "messages", "prompt", "stop", "n", "seed", "temperature", "top_p", "top_k", "stream",
     "stream_options", "max_tokens", "tools", "logit_bias", "response_format"]
)  # fmt: skip


@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_anything_is_read_or_refused(fields: dict[str, Any]) -> None:
    for read in (chat, text):
        with suppress(ApiError):
            read(**fields)

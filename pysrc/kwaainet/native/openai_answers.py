"""What an OpenAI client is answered: bodies, chunks of a stream, errors, and how they are framed.

Follows OpenAI's API reference (objects ``chat.completion``, ``chat.completion.chunk``,
``text_completion``, ``model``, ``error``) and WHATWG's server-sent events. Rule of the file: pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ApiError, CapacityError, InputError, KwaaiNetError, RemoteError, Unreachable

JsonObject = dict[str, Any]

DONE = b"data: [DONE]\n\n"


def to_json(value: Any) -> bytes:
    """UTF-8 without escapes; what is no character becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def event(value: Any) -> bytes:
    """One server-sent event; JSON has no line ends of its own."""
    return b"data: " + to_json(value) + b"\n\n"


def usage(prompt_tokens: int, completion_tokens: int) -> JsonObject:
    """What the answer cost; the token that ended the text by itself is not counted."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


@dataclass(frozen=True, slots=True)
class Style:
    """The answer to one request: its kind (chat or text) and what all its chunks have in common."""

    chat: bool
    id: str
    model: str
    created: int  # seconds since the epoch
    fingerprint: str
    include_usage: bool = False

    def whole(self, choices: Sequence[tuple[str, str]], used: JsonObject) -> JsonObject:
        """The answer at once; ``choices``: text and finish reason of each."""
        name = "chat.completion" if self.chat else "text_completion"
        listed = [self._whole_choice(index, *choice) for index, choice in enumerate(choices)]
        return {**self._head(name), "choices": listed, "usage": used}

    def opening(self, index: int) -> list[JsonObject]:
        """What begins a choice in a stream."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunk([self._delta(index, delta, None)])] if self.chat else []

    def piece(self, index: int, text: str, finish: str | None) -> list[JsonObject]:
        """More text of a choice, its end, or both; nothing when there is neither."""
        if not self.chat:
            return [self._chunk([self._text(index, text, finish)])] if text or finish else []
        chunks = [self._chunk([self._delta(index, {"content": text}, None)])] if text else []
        return [*chunks, self._chunk([self._delta(index, {}, finish)])] if finish else chunks

    def closing(self, used: JsonObject) -> list[JsonObject]:
        """What ends a stream, before ``DONE``."""
        return [{**self._chunk([]), "usage": used}] if self.include_usage else []

    def _whole_choice(self, index: int, text: str, finish: str) -> JsonObject:
        if not self.chat:
            return self._text(index, text, finish)
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}

    def _text(self, index: int, text: str, finish: str | None) -> JsonObject:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}

    def _delta(self, index: int, delta: Mapping[str, Any], finish: str | None) -> JsonObject:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}

    def _chunk(self, choices: list[JsonObject]) -> JsonObject:
        name = "chat.completion.chunk" if self.chat else "text_completion"
        chunk = {**self._head(name), "choices": choices}
        return {**chunk, "usage": None} if self.include_usage else chunk

    def _head(self, name: str) -> JsonObject:
        return {
            "id": self.id,
            "object": name,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def model_object(name: str, created: int, max_model_len: int) -> JsonObject:
    """A model in ``GET /v1/models``; ``max_model_len`` is vLLM's name for the length of its context."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "kwaainet",
        "max_model_len": max_model_len,
    }


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as HTTP and OpenAI have it."""

    status: int
    body: JsonObject
    retry_after: int | None = None  # seconds


_TYPES = {429: "rate_limit_error"}


def failure(error: BaseException) -> Failure:
    """Whose fault it was decides the status: the caller's 4xx, the swarm's 503, ours 500."""
    if isinstance(error, ApiError):
        wait = None if error.retry_after is None else max(math.ceil(error.retry_after), 1)
        return _failure(error.status, str(error), error.param, error.code, wait)
    if isinstance(error, InputError):
        return _failure(400, str(error))
    if isinstance(error, Unreachable):
        return _failure(503, str(error), code="no_server", retry_after=5)
    if isinstance(error, CapacityError):
        return _failure(503, str(error), code="overloaded", retry_after=5)
    if isinstance(error, RemoteError | TimeoutError):
        return _failure(503, f"the swarm failed: {error}", code="server_failed", retry_after=5)
    text = str(error) if isinstance(error, KwaaiNetError) else "this is a fault of the server, see its log"
    return _failure(500, text, code="internal_error")


def _failure(
    status: int, text: str, param: str | None = None, code: str | None = None, retry_after: int | None = None
) -> Failure:
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    body = {"error": {"message": text, "type": kind, "param": param, "code": code}}
    return Failure(status, body, retry_after)

"""What an OpenAI client asks for, read from its JSON into typed values.

Follows OpenAI's API reference (``POST /v1/chat/completions``, ``/v1/completions``) and the extensions
of vLLM's and llama.cpp's servers. Rule of the file: pure; a field known to change the answer is obeyed
or refused by name; others are ignored, as those servers do, for clients send fields of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ApiError, InputError
from ..formats.json_text import parse_object
from ..inference.sampling import Sampling

MAX_STOPS = 4  # as OpenAI documents
MAX_STOP_LENGTH = 256  # characters of one
MAX_CHOICES = 4  # completions of one request, its prompts times its ``n``
MAX_MESSAGES = 2048
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's for /v1/completions
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MIN_TOP_P = 1e-9  # what 0 is taken for: only the likeliest token

# Fields that would change the answer and that we cannot obey, with the values that ask for nothing.
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (0, False),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "repeat_penalty": (1,),
    "min_p": (0,),
    "typical_p": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "use_beam_search": (False,),
    "ignore_eos": (False,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "mirostat": (0,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "json_schema": (),
    "grammar": ("",),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What both endpoints share. ``max_tokens`` ``None``: as many as the server gives by default."""

    model: str
    max_tokens: int | None
    sampling: Sampling
    seed: int | None
    stop: tuple[str, ...]
    n: int
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """``messages`` as chat templates take them: role and text."""

    wanted: Wanted
    messages: tuple[Mapping[str, str], ...]

    @property
    def choices(self) -> int:
        """How many completions are asked for."""
        return self.wanted.n


@dataclass(frozen=True, slots=True)
class TextRequest:
    """``prompts``: texts, or token ids."""

    wanted: Wanted
    prompts: tuple[str | tuple[int, ...], ...]

    @property
    def choices(self) -> int:
        """How many completions are asked for."""
        return self.wanted.n * len(self.prompts)


def read_chat(body: bytes) -> ChatRequest:
    """Of ``POST /v1/chat/completions``. Raises ``ApiError``."""
    fields = _read(body)
    limit = "max_tokens" if fields.get("max_completion_tokens") is None else "max_completion_tokens"
    messages = fields.get("messages")
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        raise _bad("messages", f"must be a list of 1 to {MAX_MESSAGES} messages")
    return ChatRequest(
        _wanted(fields, limit, None), tuple(_message(one, index) for index, one in enumerate(messages))
    )


def read_completion(body: bytes) -> TextRequest:
    """Of ``POST /v1/completions``. Raises ``ApiError``."""
    fields = _read(body)
    wanted, prompts = _wanted(fields, "max_tokens", DEFAULT_COMPLETION_TOKENS), _prompts(fields.get("prompt"))
    if len(prompts) * wanted.n > MAX_CHOICES:
        raise _bad(
            "prompt", f"and n ask for {len(prompts)} x {wanted.n} completions; {MAX_CHOICES} at a time"
        )
    return TextRequest(wanted, prompts)


def _read(body: bytes) -> dict[str, Any]:
    try:
        fields = parse_object(body, "the request body")
    except InputError as error:
        raise ApiError(str(error)) from None
    for name, neutral in _UNSUPPORTED.items():
        value = fields.get(name)
        if value is not None and not any(_same(value, one) for one in neutral):
            raise ApiError(f"{name} is not supported here; leave it out", param=name, code="unsupported")
    return fields


def _same(value: Any, neutral: Any) -> bool:
    """Equal, with 0 and 0.0 alike but neither of them ``False``."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)


def _wanted(fields: Mapping[str, Any], limit: str, default_limit: int | None) -> Wanted:
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise _bad("model", "must name a model; GET /v1/models lists them")
    stream = _flag(fields, "stream")
    sampling = Sampling(
        _number(fields, "temperature", 1.0, 0.0, 2.0),
        max(_integer(fields, "top_k", -1, 1 << 30) or 0, 0),  # vLLM's -1 is off too
        max(_number(fields, "top_p", 1.0, 0.0, 1.0), MIN_TOP_P),
    )
    return Wanted(
        model,
        _integer(fields, limit, 1, 1 << 30) or default_limit,
        sampling,
        _integer(fields, "seed", -(1 << 63), (1 << 63) - 1),
        _stops(fields.get("stop")),
        _integer(fields, "n", 1, MAX_CHOICES) or 1,
        stream,
        _include_usage(fields.get("stream_options"), stream),
    )


def _message(message: Any, index: int) -> Mapping[str, str]:
    where = f"messages[{index}]"
    if not isinstance(message, dict):
        raise _bad(where, "must be an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise _bad(f"{where}.role", f"must be one of {', '.join(ROLES)}; tools are not supported here")
    if message.get("tool_calls") or message.get("function_call"):
        raise _bad(f"{where}.tool_calls", "is not supported here; leave it out", "unsupported")
    return {"role": ROLES[role], "content": _content(message.get("content"), role, f"{where}.content")}


def _content(content: Any, role: str, where: str) -> str:
    """The text of a message; parts are joined by line ends, as vLLM and llama.cpp do."""
    if isinstance(content, str):
        return content
    if content is None and role == "assistant":
        return ""
    if not isinstance(content, list) or not content:
        raise _bad(where, "must be a text or a list of text parts")
    return "\n".join(_part(part, where) for part in content)


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise _bad(where, "has a part that is not an object with a type")
    if part["type"] != "text":
        raise _bad(where, "has a part that is not text; this model reads text only", "unsupported")
    if not isinstance(part.get("text"), str):
        raise _bad(where, "has a text part without its text")
    return str(part["text"])


def _prompts(prompt: Any) -> tuple[str | tuple[int, ...], ...]:
    """A text, texts, token ids, or lists of token ids."""
    several = prompt if isinstance(prompt, list) and not _are_ids(prompt) else [prompt]
    if not 1 <= len(several) <= MAX_CHOICES:
        raise _bad("prompt", f"must be 1 to {MAX_CHOICES} prompts")
    if all(isinstance(one, str) for one in several):
        return tuple(several)
    if all(_are_ids(one) for one in several):
        return tuple(tuple(one) for one in several)
    raise _bad("prompt", "must be a text, a list of texts, or token ids")


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def _stops(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise _bad("stop", f"must be a text or a list of up to {MAX_STOPS}")
    if not all(isinstance(stop, str) and 1 <= len(stop) <= MAX_STOP_LENGTH for stop in stops):
        raise _bad("stop", f"must be made of texts of 1 to {MAX_STOP_LENGTH} characters")
    return tuple(stops)


def _include_usage(options: Any, stream: bool) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict):
        raise _bad("stream_options", "must be an object")
    if not stream:
        raise _bad("stream_options", "is allowed with stream only")
    return _flag(options, "include_usage")


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise _bad(name, "must be true or false")
    return bool(value)


def _integer(fields: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = fields.get(name)
    if value is not None and not (type(value) is int and low <= value <= high):
        raise _bad(name, f"must be a whole number from {low} to {high}")
    return value


def _number(fields: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _bad(name, f"must be a number from {low:g} to {high:g}")
    return float(value)


def _bad(param: str, must: str, code: str | None = None) -> ApiError:
    return ApiError(f"{param} {must}", param=param, code=code)

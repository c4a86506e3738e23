"""Completions through the swarm for Python in any page: JupyterLite, PyScript, or a Pyodide of one's own.

The SDK of a relay (``/sdk/python.js``) runs beside it, in workers of its own, and does the work; here are its
words as Python's OpenAI client has them: ``await client.chat.completions.create(messages=…, stream=True)``.
Rule of the file: no JavaScript; what is cancelled, closed or forgotten is aborted at the servers, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypedDict, Unpack, cast, overload

from .. import errors
from ..errors import InputError, KwaaiNetError, LocalError, RemoteError, UsageError
from .page_messages import Answered, Ask, Connect, Loading, PythonToSdk, SdkToPython, Text, Turn

FinishReason = Literal["stop", "length"]
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Delta:
    """What a chunk adds to the answer."""

    content: str | None = None
    role: str = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """A whole answer."""

    content: str
    role: str = "assistant"


@dataclass(frozen=True, slots=True)
class ChunkChoice:
    """``finish_reason`` comes with the last chunk."""

    delta: Delta
    finish_reason: FinishReason | None = None
    index: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """The one answer that there is."""

    message: Message
    finish_reason: FinishReason
    index: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the conversation and of the answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class ChatCompletionChunk:
    """A part of an answer as it comes; ``usage`` with the last."""

    id: str
    created: int
    model: str
    choices: tuple[ChunkChoice]
    usage: Usage | None = None
    object: str = "chat.completion.chunk"


@dataclass(frozen=True, slots=True)
class ChatCompletion:
    """An answer."""

    id: str
    created: int
    model: str
    choices: tuple[Choice]
    usage: Usage
    object: str = "chat.completion"


class Port(Protocol):
    """The way to the SDK."""

    def send(self, message: PythonToSdk) -> None:
        """Send one message; those after ``close`` go nowhere."""

    def close(self) -> None:
        """Let go of it."""


class Options(TypedDict, total=False):
    """How to answer; what is absent or ``None`` is as OpenAI has it, but for 256 new tokens at most."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: str | Sequence[str] | None


OpenPort = Callable[[str, Callable[[SdkToPython], None]], Any]  # (relay, receive) -> an awaitable Port
Waiting = asyncio.Queue[SdkToPython]


class AsyncClient:
    """A client of the swarm, for ``async with AsyncClient("https://relay.example") as client:``.

    ``relay`` is the address of a relay's page; ``model`` the one it must offer, if that matters. Nothing
    loads before ``start`` or the first completion; then Python and a part of the model come from the relay,
    and ``on_progress`` is called with (stage, bytes done, bytes in all or 0). Servers see activations, from
    which words can be worked out.
    """

    def __init__(
        self,
        relay: str,
        model: str | None = None,
        *,
        webrtc: Literal["auto", "off"] = "auto",
        on_progress: Callable[[str, int, int], None] | None = None,
        open_port: OpenPort | None = None,
    ) -> None:
        self.chat = Chat(self)
        self._relay, self._on_progress, self._open_port = relay.rstrip("/"), on_progress, open_port
        self._connect: Connect = {"type": "connect", "relay": relay, "webrtc": webrtc}
        if model is not None:
            self._connect["model"] = model
        self._opening: asyncio.Future[Port] | None = None
        self._port: Port | None = None
        self._numbers = count(1)
        self._waiting: dict[int, Waiting] = {}
        self._closed = False

    async def start(self) -> None:
        """Load everything now. Raises ``LocalError`` or ``Unreachable``; may be tried again."""
        await self._ask_once("load")

    async def generate(self, prompt: str | Messages, **options: Unpack[Options]) -> AsyncIterator[str]:
        """The answer to a text or a conversation, piece by piece; ``options`` as for ``create``."""
        messages: Messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        async with await self.chat.completions.create(messages=messages, stream=True, **options) as chunks:
            async for chunk in chunks:
                if chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content

    async def close(self) -> None:
        """End every answer and let go of all memory. Never raises."""
        if self._port is not None and not self._closed:
            await self._ask_once("disconnect")
        self._closed = True
        for waiting in self._waiting.values():
            waiting.put_nowait(_problem(0, "UsageError", "the client was closed"))
        if self._port is not None:
            self._port.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def ask(self, asked: Ask) -> Stream:
        """Send a question, numbered here; its answer."""
        number, waiting = await self._new_number()
        self._send({**asked, "id": number})
        return Stream(number, waiting, self._give_up)

    async def _ask_once(self, kind: Literal["load", "disconnect"]) -> None:
        number, waiting = await self._new_number()
        try:
            self._send(cast(PythonToSdk, {"type": kind, "id": number}))
            answer = await waiting.get()
        finally:
            self._waiting.pop(number, None)
        if answer["type"] == "problem" and kind == "load":
            raise error_of(answer["error"], answer["message"])

    async def _new_number(self) -> tuple[int, Waiting]:
        if self._closed:
            raise UsageError("this client was closed; make another")
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
        try:
            self._port = await asyncio.shield(self._opening)
        except KwaaiNetError:
            self._opening = None  # another time it may be there
            raise
        number = next(self._numbers)
        self._waiting[number] = asyncio.Queue()
        return number, self._waiting[number]

    async def _open(self) -> Port:
        port: Port = await (self._open_port or _in_this_page())(self._relay, self._receive)
        port.send(self._connect)
        return port

    def _send(self, message: PythonToSdk) -> None:
        if self._port is not None and not self._closed:
            self._port.send(message)

    def _give_up(self, number: int, ended: bool) -> None:
        self._waiting.pop(number, None)
        if not ended:
            self._send({"type": "abort", "id": number})

    def _receive(self, message: SdkToPython) -> None:
        if message["type"] == "loading":
            self._tell_progress(message)
        elif message["type"] == "problem" and message["id"] == 0:  # of all there is
            for waiting in self._waiting.values():
                waiting.put_nowait(message)
        elif message["id"] in self._waiting:
            self._waiting[message["id"]].put_nowait(message)

    def _tell_progress(self, message: Loading) -> None:
        if self._on_progress is not None:
            self._on_progress(message["stage"], message["done"], message["total"])


class Chat:
    """Holds ``completions``, as OpenAI's client does."""

    def __init__(self, client: AsyncClient) -> None:
        self.completions = Completions(client)


class Completions:
    """``create`` completes a conversation."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    @overload
    async def create(
        self, *, messages: Messages, stream: Literal[True], **options: Unpack[Options]
    ) -> Stream: ...

    @overload
    async def create(
        self, *, messages: Messages, stream: Literal[False] = False, **options: Unpack[Options]
    ) -> ChatCompletion: ...

    async def create(
        self, *, messages: Messages, stream: bool = False, **options: Unpack[Options]
    ) -> Stream | ChatCompletion:
        """The answer, or with ``stream`` its chunks as they come.

        A temperature of 0 is greedy. Cancelling it ends the answer at every server. Raises ``InputError`` for
        what makes no sense, ``Unreachable`` where the swarm has no servers for all blocks, and what else the
        client raises.
        """
        if unknown := sorted(set(options) - Options.__annotations__.keys()):
            raise InputError(f"{', '.join(unknown)}: there are only {', '.join(Options.__annotations__)}")
        asked: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        if isinstance(asked.get("stop"), str):
            asked["stop"] = [asked["stop"]]
        turns: list[Turn] = [{"role": turn["role"], "content": turn["content"]} for turn in messages]
        answer = await self._client.ask(cast(Ask, {"type": "ask", "messages": turns, **asked}))
        return answer if stream else await answer.whole()


class Stream:
    """An answer's chunks, for ``async for``; leaving it by ``close`` or ``async with`` aborts it."""

    def __init__(self, number: int, waiting: Waiting, give_up: Callable[[int, bool], None]) -> None:
        self._number, self._waiting, self._give_up = number, waiting, give_up
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        if self._over:
            raise StopAsyncIteration
        try:
            message = await self._waiting.get()
        except asyncio.CancelledError:
            await self.close()
            raise
        if message["type"] == "text":
            return self._chunk(message, Delta(message["text"]))
        self._end(ended=True)
        if message["type"] == "answered":
            return self._chunk(message, Delta(), message["reason"], _usage(message))
        if message["type"] == "problem":
            raise error_of(message["error"], message["message"])
        raise LocalError(f"the SDK answered a question with {message['type']!r}")

    async def whole(self) -> ChatCompletion:
        """All of it, once it has ended."""
        parts: list[str] = []
        async for chunk in self:
            (choice,) = chunk.choices
            parts.append(choice.delta.content or "")
            if choice.finish_reason is not None and chunk.usage is not None:
                message = Choice(Message("".join(parts)), choice.finish_reason)
                return ChatCompletion(chunk.id, chunk.created, chunk.model, (message,), chunk.usage)
        raise UsageError("this answer was taken before")

    async def close(self) -> None:
        """Give the rest up; servers are told."""
        self._end(ended=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        self._end(ended=False)

    def _end(self, *, ended: bool) -> None:
        if not self._over:
            self._over = True
            self._give_up(self._number, ended)

    def _chunk(
        self,
        of: Text | Answered,
        delta: Delta,
        reason: FinishReason | None = None,
        usage: Usage | None = None,
    ) -> ChatCompletionChunk:
        choice = ChunkChoice(delta, reason)
        return ChatCompletionChunk(f"chatcmpl-{self._number}", of["created"], of["model"], (choice,), usage)


def error_of(name: str, message: str) -> KwaaiNetError:
    """The SDK's error as ours, by its name; parameters that make no sense are an ``InputError``."""
    if name == "TypeError":
        return InputError(message)
    kind = getattr(errors, name, None)
    known = isinstance(kind, type) and issubclass(kind, KwaaiNetError) and kind.__init__ is Exception.__init__
    return kind(message) if known and kind is not None else RemoteError(message)


def _in_this_page() -> OpenPort:
    from .page_port import open_port  # needs a browser

    return open_port


def _problem(number: int, error: str, message: str) -> SdkToPython:
    return {"type": "problem", "id": number, "error": error, "message": message}


def _usage(message: Answered) -> Usage:
    prompt, new = message["prompt_tokens"], message["completion_tokens"]
    return Usage(prompt, new, prompt + new)

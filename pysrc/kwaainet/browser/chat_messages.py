"""The messages between the page and the client worker, declared once, as in ``messages``.

Rule of the file: as there.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from .messages import Cancel, Failed, LoadProgress, Model, NetworkGone, Port, Stopped


class ClientConfig(TypedDict):
    """What the client is to know. ``push``: servers pass a step on to the next one themselves; ``auto``:
    where that is sooner."""

    origin: str
    relays: list[str]
    model: Model
    push: Literal["auto", "on", "off"]


class StartClient(TypedDict):
    """Boot Pyodide and the client."""

    type: Literal["start-client"]
    config: ClientConfig
    network: Port


class StopClient(TypedDict):
    """End every answer and leave; answered by ``stopped``."""

    type: Literal["stop-client"]


class ChatMessage(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


class Complete(TypedDict):
    """Answer a conversation: ``chain``, then ``piece`` after ``piece``, then ``finished`` or ``refused``.

    ``cancel`` ends it without a word more. Temperature 0 is greedy; without ``seed`` chance decides.
    """

    type: Literal["complete"]
    id: int
    messages: list[ChatMessage]
    max_tokens: int
    temperature: float
    top_p: float
    stop: list[str]
    seed: NotRequired[int]


class ClientState(TypedDict):
    """Where the client stands."""

    type: Literal["client-state"]
    state: Literal["starting", "loading", "ready"]


class HopReport(TypedDict):
    """A server of a chain and the blocks it computes, ``end`` not included."""

    peer: str
    start: int
    end: int


class Chain(TypedDict):
    """The servers that answer now; said again when one was lost and others took its place."""

    type: Literal["chain"]
    id: int
    hops: list[HopReport]


class Piece(TypedDict):
    """More text; ``tokens`` counts all so far."""

    type: Literal["piece"]
    id: int
    text: str
    tokens: int


class Finished(TypedDict):
    """The end of an answer. ``decoding_ms`` is from the first token to the last."""

    type: Literal["finished"]
    id: int
    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    first_token_ms: float
    decoding_ms: float


class Refused(TypedDict):
    """There is no answer, or no more of it; ``error`` is a class of ``kwaainet.errors``."""

    type: Literal["refused"]
    id: int
    error: str
    message: str


PageToClient = StartClient | StopClient | Complete | Cancel | NetworkGone
ClientToPage = ClientState | LoadProgress | Chain | Piece | Finished | Refused | Failed | Stopped

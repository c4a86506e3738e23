"""The messages between Python in somebody's page and the SDK (web/sdk/python.ts), as in ``messages``.

Rule of the file: as there; each is one JSON text, so that nothing of either language crosses.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class Connect(TypedDict):
    """The first message: which relay and model; ``webrtc`` off: always through the relay."""

    type: Literal["connect"]
    relay: str
    model: NotRequired[str]
    webrtc: Literal["auto", "off"]


class Load(TypedDict):
    """Load everything now; answered by ``done``. Otherwise the first completion does."""

    type: Literal["load"]
    id: int


class Turn(TypedDict):
    """One message of a conversation."""

    role: str
    content: str


class Ask(TypedDict):
    """Complete a conversation; answered by ``text`` as it comes, then by one ``answered``."""

    type: Literal["ask"]
    id: int
    messages: list[Turn]
    max_tokens: NotRequired[int]
    temperature: NotRequired[float]
    top_p: NotRequired[float]
    seed: NotRequired[int]
    stop: NotRequired[list[str]]


class Abort(TypedDict):
    """Nobody wants the rest of what was asked for; nothing more is said of it."""

    type: Literal["abort"]
    id: int


class Disconnect(TypedDict):
    """End every answer and let go of all memory; answered by ``done``, the last message."""

    type: Literal["disconnect"]
    id: int


class Loading(TypedDict):
    """Bytes of what is being loaded; a total of 0 is not known yet."""

    type: Literal["loading"]
    stage: str
    done: int
    total: int


class Text(TypedDict):
    """More of an answer."""

    type: Literal["text"]
    id: int
    model: str
    created: int
    text: str


class Answered(TypedDict):
    """An answer has ended by itself."""

    type: Literal["answered"]
    id: int
    model: str
    created: int
    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


class Done(TypedDict):
    """What was asked for has been done."""

    type: Literal["done"]
    id: int


class Problem(TypedDict):
    """It failed; ``error`` is the class of the failure."""

    type: Literal["problem"]
    id: int
    error: str
    message: str


PythonToSdk = Connect | Load | Ask | Abort | Disconnect
SdkToPython = Loading | Text | Answered | Done | Problem

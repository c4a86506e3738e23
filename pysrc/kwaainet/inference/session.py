"""One ``rpc_inference`` session: what each message means for the KV cache.

Follows Petals' ``server/handler.py`` (rpc_inference, _iterate_inference_steps) and
``server/block_functions.py`` (iterate_rpc_inference). Rule of the file: requests go in, commands for
whoever holds the engine come out, in the order they must be carried out; no async, no engine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import RequestError
from ..ports import Floats
from ..swarm import blocks
from ..types import BlockRange
from ..wire.messages import ExpertRequest, Tensor
from . import tensors
from .tensors import Limits, ReplyFormat

MAX_STEP_IDS = 1024  # remembered to recognise a repeated step; repeats follow closely
MAX_ID_LENGTH = 128  # characters of a session or step id; stock clients send 36


@dataclass(frozen=True, slots=True)
class OpenCache:
    """Allocate KV to run ``blocks`` (counted from the span's start); wait ``alloc_timeout`` s at most."""

    blocks: BlockRange
    batch: int
    max_length: int
    alloc_timeout: float


@dataclass(frozen=True, slots=True)
class Truncate:
    """Roll the cache back to its first ``length`` positions."""

    length: int


@dataclass(frozen=True, slots=True)
class Reorder:
    """Row i becomes what row ``rows[i]`` was."""

    rows: list[int]


@dataclass(frozen=True, slots=True)
class Run:
    """Run hidden [batch, n, hidden] through the span, appending n >= 1 positions; reply so."""

    hidden: Floats
    reply: ReplyFormat


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer with this tensor, without running anything."""

    tensor: Tensor


@dataclass(frozen=True, slots=True)
class End:
    """The client has ended the session."""


Command: TypeAlias = OpenCache | Truncate | Reorder | Run | Reply | End


class InferenceSession:
    """The state of one session over some or all blocks of the span ``served`` of the model ``prefix``.

    ``position`` counts the tokens in the cache once all commands so far are carried out. After an
    error the session is over: its commands up to there were not handed out.
    """

    def __init__(self, prefix: str, served: BlockRange, limits: Limits) -> None:
        self._prefix, self._served, self._limits = prefix, served, limits
        self._uid: str | None = None  # of the first message; None before it
        self._batch = 0
        self._max_length = 0
        self._step_ids: dict[str, None] = {}  # insertion-ordered set
        self._structure: object = None
        self.position = 0
        self.ended = False

    def receive(self, request: ExpertRequest) -> list[Command]:
        """The commands that one message stands for.

        Raises ``RequestError``, ``ProtocolError`` or ``LimitExceeded`` for what cannot be served.
        """
        if self.ended:
            raise RequestError("the session has ended; open another one")
        if not request.tensors:
            self.ended = True
            return [End()]
        options = tensors.metadata(request)
        if self._is_repeated(options):
            return []
        hidden, prompts, hypo_ids = self._arguments(request, options)
        batch, tokens = tensors.check_hidden(hidden, self._limits)
        assert hidden is not None  # check_hidden raises otherwise
        tensors.check_prompts(prompts)
        opening = [self._open(request.uid, batch, options)] if self._uid is None else []
        self._check_step(request.uid, batch)
        commands: list[Command] = [*opening, *self._roll_back(options)]
        if self.position + tokens > self._max_length:
            raise RequestError(
                f"Maximum length exceeded: prefix {self.position} + current {tokens} "
                f"exceeds pre-allocated maximum {self._max_length}"
            )
        rows = tensors.unpack_hypo_ids(hypo_ids, batch)
        if rows is not None and self.position and rows != list(range(batch)):
            commands.append(Reorder(rows))
        commands.append(self._step(hidden, tokens, options))
        self.position += tokens
        return commands

    def _arguments(
        self, request: ExpertRequest, options: dict[str, Any]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """(hidden, prompts, hypo_ids); a later message without a structure keeps the first one's."""
        self._structure = options.get("args_structure", self._structure)
        given = tensors.arguments(request.tensors, self._structure)
        given += [None] * (3 - len(given))
        return given[0], given[1], given[2]

    def _open(self, uid: str, batch: int, options: dict[str, Any]) -> OpenCache:
        asked = blocks.within(blocks.parse_chain(uid, self._prefix, self._served), self._served)
        tensors.check_common(options)
        _check_id("session_id", options.get("session_id"))
        length = options.get("max_length")
        if type(length) is not int or length < 0:
            raise RequestError(f"max_length is {str(length)[:40]!r}; the first message must give a number")
        if length > self._limits.max_length:
            raise RequestError(
                f"Cannot allocate KV cache for {length} tokens, max = {self._limits.max_length}"
            )
        self._uid, self._batch, self._max_length = uid, batch, length
        # an engine's cache holds at least one position, even if the client only asks whether it could
        return OpenCache(asked, batch, max(length, 1), _alloc_timeout(options))

    def _check_step(self, uid: str, batch: int) -> None:
        if uid not in ("", self._uid):
            raise RequestError(f"the session was opened for {self._uid!r}, not for {uid[:200]!r}")
        if batch != self._batch:
            raise RequestError(f"a batch of {batch} in a session opened for a batch of {self._batch}")

    def _is_repeated(self, options: dict[str, Any]) -> bool:
        """Whether this step came before (a client's step that a server also pushed, say)."""
        step = options.get("step_id")
        _check_id("step_id", step)
        if step is None:
            return False
        if step in self._step_ids:
            return True
        self._step_ids[step] = None
        if len(self._step_ids) > MAX_STEP_IDS:
            del self._step_ids[next(iter(self._step_ids))]
        return False

    def _roll_back(self, options: dict[str, Any]) -> list[Command]:
        start = options.get("start_from_position")
        if start is None or start == self.position:
            return []
        if type(start) is not int or not 0 <= start < self.position:
            raise RequestError(
                f"start_from_position is {str(start)[:40]!r}; the session is at {self.position}"
            )
        self.position = start
        return [Truncate(start)]

    def _step(self, hidden: Tensor, tokens: int, options: dict[str, Any]) -> Run | Reply:
        reply = tensors.reply_format(hidden, options)
        states = tensors.unpack_hidden(hidden)
        if tokens == 0:  # a client that only wants to know whether the cache can be had
            return Reply(ReplyFormat(reply.dtype).pack(states))
        return Run(states, reply)


def _check_id(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, str) and len(value) <= MAX_ID_LENGTH):
        raise RequestError(f"{name} is {str(value)[:40]!r}; a text of at most {MAX_ID_LENGTH} is expected")


def _alloc_timeout(options: dict[str, Any]) -> float:
    value = options.get("alloc_timeout", 0.0)
    if value is None:
        return math.inf  # Petals: wait without a limit; the server caps it
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise RequestError(f"alloc_timeout is {str(value)[:40]!r}; seconds are expected")
    return float(value)

"""One ``rpc_inference`` session: what each message means for the KV cache.

Follows Petals' ``server/handler.py`` (rpc_inference, _iterate_inference_steps) and
``server/block_functions.py`` (iterate_rpc_inference). Rule of the file: requests go in, commands for
whoever holds the engine come out, in the order they must be carried out; no async, no engine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import LimitExceeded, RequestError
from ..ports import Floats
from ..swarm import blocks
from ..types import BlockRange
from ..wire.messages import ExpertRequest, Tensor
from . import tensors
from .push import Onward, SessionKey, check_id, onward
from .tensors import Limits, ReplyFormat

MAX_STEP_IDS = 1024  # remembered to recognise a repeated step; repeats follow closely
MAX_IDLE = 256  # messages in a row that append nothing; a client whose steps are pushed sends one each


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
    """Run hidden [batch, n, hidden] through the span, appending n >= 1 positions; reply so.

    ``onward`` says which server is to have the output as well. ``prompts`` float [blocks, batch or 1,
    p, hidden] are to be added before each block to the first p of the positions, which are the cache's first.
    """

    hidden: Floats
    reply: ReplyFormat
    onward: Onward | None = None
    prompts: Floats | None = None


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

    ``position`` counts the tokens in the cache once all commands so far are carried out; ``blocks``
    of the model are those it was opened for. ``key`` is
    known once a first message that has a session id was served. A message that raises changes
    nothing, except that one of the client's own leaves it without its answer.
    """

    def __init__(self, prefix: str, served: BlockRange, limits: Limits) -> None:
        self._prefix, self._served, self._limits = prefix, served, limits
        self._uid: str | None = None  # of the first message; None before it
        self.blocks = served
        self._batch = 0
        self._max_length = 0
        self._step_ids: dict[str, None] = {}  # insertion-ordered set
        self._structure: object = None
        self._idle = 0
        self.key: SessionKey | None = None
        self.position = 0
        self.ended = False

    def receive(self, request: ExpertRequest) -> list[Command]:
        """The commands that one of the client's own messages stands for.

        Raises ``RequestError``, ``ProtocolError`` or ``LimitExceeded`` for what cannot be served.
        """
        if self.ended:
            raise RequestError("the session has ended; open another one")
        if not request.tensors:
            self.ended = True
            return [End()]
        commands = self._step(request)
        self._idle = 0 if any(isinstance(command, Run) for command in commands) else self._idle + 1
        if self._idle > MAX_IDLE:
            raise LimitExceeded(
                f"{self._idle} messages in a row asked for no new token; at most {MAX_IDLE} may"
            )
        return commands

    def receive_pushed(self, request: ExpertRequest) -> list[Command]:
        """The same for a step that another server pushed: raises too, and the session goes on."""
        if self.ended or self._uid is None or not request.tensors:
            raise RequestError("a pushed step needs a running session and tensors")
        if tensors.metadata(request).get("step_id") is None:
            raise RequestError(
                "a pushed step has no step_id; it could not be told from the client's own copy"
            )
        commands = self._step(request)
        if any(isinstance(command, Run) for command in commands):
            self._idle = 0  # the client's own copy will ask for nothing new
        return commands

    def _step(self, request: ExpertRequest) -> list[Command]:
        options = tensors.metadata(request)
        step = options.get("step_id")
        check_id("step_id", step)
        if step is not None and step in self._step_ids:
            return []  # the client's own copy of a step that was pushed, or the other way round
        structure = options.get("args_structure", self._structure)
        hidden, prompts, hypo_ids = _arguments(request, structure)
        batch, tokens = tensors.check_hidden(hidden, self._limits)
        assert hidden is not None  # check_hidden raises otherwise
        opening = [self._open(request.uid, batch, options)] if self._uid is None else []
        self._check_step(request.uid, batch)
        start = self._start(options)
        if start + tokens > self._max_length:
            raise RequestError(
                f"Maximum length exceeded: prefix {start} + current {tokens} "
                f"exceeds pre-allocated maximum {self._max_length}"
            )
        rows = tensors.unpack_hypo_ids(hypo_ids, batch)
        running = self._run(request, hidden, options, self._prompts(prompts, hidden, start))
        # nothing raises from here on
        commands: list[Command] = [*opening, *([Truncate(start)] if start < self.position else [])]
        if rows is not None and start and rows != list(range(batch)):
            commands.append(Reorder(rows))
        self._structure, self.position = structure, start + tokens
        self._remember(step)
        return [*commands, running]

    def _open(self, uid: str, batch: int, options: dict[str, Any]) -> OpenCache:
        asked = blocks.parse_chain(uid, self._prefix, self._served)
        tensors.check_common(options)
        session_id = options.get("session_id")
        check_id("session_id", session_id)
        length = options.get("max_length")
        if type(length) is not int or length < 0:
            raise RequestError(f"max_length is {str(length)[:40]!r}; the first message must give a number")
        if length > self._limits.max_length:
            raise RequestError(
                f"Cannot allocate KV cache for {length} tokens, max = {self._limits.max_length}"
            )
        self._uid, self._batch, self._max_length = uid, batch, length
        self.blocks, self.key = asked, (session_id, asked) if session_id else None
        # an engine's cache holds at least one position, even if the client only asks whether it could
        return OpenCache(blocks.within(asked, self._served), batch, max(length, 1), _alloc_timeout(options))

    def _check_step(self, uid: str, batch: int) -> None:
        if uid not in ("", self._uid):
            raise RequestError(f"the session was opened for {self._uid!r}, not for {uid[:200]!r}")
        if batch != self._batch:
            raise RequestError(f"a batch of {batch} in a session opened for a batch of {self._batch}")

    def _remember(self, step: str | None) -> None:
        if step is not None:
            self._step_ids[step] = None
        if len(self._step_ids) > MAX_STEP_IDS:
            del self._step_ids[next(iter(self._step_ids))]

    def _start(self, options: dict[str, Any]) -> int:
        """The position this step is for: ours, or one to roll back to. A step from further on would be
        computed on a cache that lacks what came between."""
        start = options.get("start_from_position")
        if start is None:
            return self.position
        if type(start) is not int or start < 0:
            raise RequestError(f"start_from_position is {str(start)[:40]!r}; a position is expected")
        if start > self.position:
            raise RequestError(
                f"start_from_position is {start}, but the session is at {self.position}: "
                "a step before this one never came; send it first"
            )
        return start

    def _prompts(self, prompts: Tensor | None, hidden: Tensor, start: int) -> Floats | None:
        if prompts is None or not tensors.check_prompts(prompts, len(self.blocks), hidden):
            return None
        if start:
            raise RequestError(
                f"deep prompts belong to the first positions of a session; this step starts at {start}"
            )
        return tensors.unpack_hidden(prompts)

    def _run(
        self, request: ExpertRequest, hidden: Tensor, options: dict[str, Any], prompts: Floats | None
    ) -> Run | Reply:
        reply = tensors.reply_format(hidden, options)
        states = tensors.unpack_hidden(hidden)
        if hidden.size[1] == 0:  # a client that only wants to know whether the cache can be had
            return Reply(ReplyFormat(reply.dtype).pack(states))
        if prompts is not None:  # those of the blocks behind us are not known here: no server can go on
            return Run(states, reply, None, prompts)
        return Run(states, reply, onward(request, options, hidden, self._prefix, self.blocks.end))


def _arguments(
    request: ExpertRequest, structure: object
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """(hidden, prompts, hypo_ids); a later message without a structure keeps the first one's."""
    given = tensors.arguments(request.tensors, structure)
    given += [None] * (3 - len(given))
    return given[0], given[1], given[2]


def _alloc_timeout(options: dict[str, Any]) -> float:
    value = options.get("alloc_timeout", 0.0)
    if value is None:
        return math.inf  # Petals: wait without a limit; the server caps it
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise RequestError(f"alloc_timeout is {str(value)[:40]!r}; seconds are expected")
    return float(value)

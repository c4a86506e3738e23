"""``rpc_push``: a step's output goes from one server straight to the next, beside the client's own copy.

Follows Petals' ``server/handler.py`` (_push_outputs). Rule of the file: what a client says of the
servers behind us is checked before anything is computed for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import InputError, RequestError
from ..swarm import blocks
from ..types import BlockRange, PeerId
from ..wire import msgpack
from ..wire.messages import ExpertRequest, Tensor

MAX_NEXT_SERVERS = 64  # of one step; a chain has a handful
MAX_ID_LENGTH = 128  # characters of a session or step id; stock clients send 36
MAX_REQUEST_ID = 64  # of them that name the request: a UUID and a slash follow in sessions of our own

SessionKey: TypeAlias = tuple[str, BlockRange]  # a session's id, and the blocks of the model it runs


@dataclass(frozen=True, slots=True)
class Onward:
    """Where a run's output goes besides the client: ``peer`` takes ``request(output)`` as rpc_push."""

    peer: PeerId
    uid: str
    tensors: tuple[Tensor, ...]
    slot: int  # which of the tensors the output replaces
    metadata: bytes

    def request(self, output: Tensor) -> ExpertRequest:
        """The step as the next server is to run it."""
        tensors = (*self.tensors[: self.slot], output, *self.tensors[self.slot + 1 :])
        return ExpertRequest(self.uid, tensors, self.metadata)


def onward(
    request: ExpertRequest, options: Mapping[str, Any], hidden: Tensor, prefix: str, end: int
) -> Onward | None:
    """What ``options["next_servers"]`` asks for after our blocks, which go up to ``end``; ``None`` if
    it asks for nothing. ``RequestError`` for entries that cannot be meant.

    The rest of the metadata goes on unchanged, so that the next server sees the client's own words.
    """
    servers = options.get("next_servers")
    if not servers or options.get("step_id") is None:  # without an id nobody could drop the other copy
        return None
    if not isinstance(servers, tuple | list) or len(servers) > MAX_NEXT_SERVERS:
        raise RequestError(f"next_servers must list at most {MAX_NEXT_SERVERS} servers")
    peer, session_id, span = _entry(servers[0])
    if span.start != end:
        raise RequestError(f"next_servers goes on at block {span.start}; our blocks end at {end}")
    metadata = {**options, "session_id": session_id, "next_servers": tuple(servers[1:]), "pushed": True}
    slot = next(index for index, tensor in enumerate(request.tensors) if tensor is hidden)
    return Onward(peer, blocks.join(prefix, span), request.tensors, slot, msgpack.dumps(metadata))


def _entry(entry: object) -> tuple[PeerId, str, BlockRange]:
    """(peer, session id, blocks) of one next server."""
    if not (isinstance(entry, tuple | list) and len(entry) == 4):
        raise RequestError("an entry of next_servers must be (peer id, session id, start block, end block)")
    peer, session_id, start, end = entry
    check_id("the session id of a next server", session_id)
    if not (isinstance(peer, str) and type(start) is int and type(end) is int and session_id):
        raise RequestError("an entry of next_servers must be (text, text, number, number)")
    if end > blocks.MAX_BLOCKS:
        raise RequestError(f"next_servers goes to block {end}; models have at most {blocks.MAX_BLOCKS}")
    try:
        return PeerId.parse(peer), session_id, BlockRange(start, end)
    except InputError as error:
        raise RequestError(f"next_servers: {error}") from error


def check_id(name: str, value: object) -> None:
    """``RequestError`` unless the value is absent or a text that may be an id."""
    if value is not None and not (isinstance(value, str) and len(value) <= MAX_ID_LENGTH):
        raise RequestError(f"{name} is {str(value)[:40]!r}; a text of at most {MAX_ID_LENGTH} is expected")

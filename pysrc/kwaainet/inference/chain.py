"""The client's end of ``rpc_inference``: the messages one hop of a chain is sent, and what comes back.

Follows Petals' client/inference_session.py (HEAD, for ``start_from_position`` and ``next_servers``).
Rule of the file: a machine without I/O; ids come in as arguments and every answer is checked before it
is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ..compression.codec import deserialize, serialize
from ..errors import ProtocolError, RequestError
from ..ports import Floats
from ..wire import msgpack
from ..wire.messages import ExpertRequest, ExpertResponse

NextServer: TypeAlias = tuple[str, str, int, int]  # (base58 peer id, its session_id, start, end block)

# args_structure: the three tensors are positional arguments (hidden, prompts, hypo_ids), no keywords
_ARGUMENTS: tuple[tuple[bytes, ...], dict[str, object]] = ((b"__T0", b"__T1", b"__T2"), {})
_NO_PROMPTS = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Step:
    """What all hops of a chain are told of one step, beside its hidden states.

    ``position`` is where the step starts; a server that has more positions rolls back to it, one that
    has fewer refuses. ``rows``: before the step, row i of the cache becomes what row ``rows[i]`` was.
    """

    step_id: str
    position: int
    rows: tuple[int, ...] | None = None


class HopSession:
    """One server's part of an inference session; hidden states are float32 [batch, n, hidden]."""

    def __init__(self, uid: str, session_id: str, max_length: int) -> None:
        self._uid = uid
        self.session_id = session_id
        self._max_length = max_length
        self.opened = False  # a request has gone out, so the server knows the session's id

    def request(self, hidden: Floats, step: Step, next_servers: Sequence[NextServer] = ()) -> bytes:
        """The message of one step."""
        metadata: dict[str, object] = {
            "session_id": self.session_id,
            "step_id": step.step_id,
            "start_from_position": step.position,
        }
        if not self.opened:
            metadata |= {"max_length": self._max_length, "points": 0, "active_adapter": ""}
        if next_servers:
            metadata["next_servers"] = list(next_servers)
        metadata["args_structure"] = _ARGUMENTS
        self.opened = True
        rows = np.asarray(step.rows if step.rows is not None else (), dtype=np.int64)
        tensors = tuple(serialize(array) for array in (hidden, _NO_PROMPTS, rows))
        return ExpertRequest(uid=self._uid, tensors=tensors, metadata=msgpack.dumps(metadata)).encode()

    @staticmethod
    def answer(message: bytes, expected: tuple[int, ...]) -> Floats:
        """The hidden states of a step; ``ProtocolError`` if they are not of the shape that is due."""
        tensors = ExpertResponse.decode(message).tensors
        if len(tensors) != 1:
            raise ProtocolError(f"the server answered a step with {len(tensors)} tensors; one is due")
        try:
            hidden = deserialize(tensors[0])
        except RequestError as error:
            raise ProtocolError(f"the server answered a tensor of no use: {error}") from None
        if hidden.shape != expected or not np.issubdtype(hidden.dtype, np.floating):
            raise ProtocolError(f"the server answered {hidden.dtype}{hidden.shape}; float{expected} is due")
        if not np.isfinite(hidden).all():
            raise ProtocolError("the server answered numbers that are not finite; it cannot be trusted")
        return np.asarray(hidden, dtype=np.float32)

    @staticmethod
    def end() -> bytes:
        """The request without tensors that ends a session."""
        return ExpertRequest().encode()

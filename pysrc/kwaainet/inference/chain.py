"""The client's end of ``rpc_inference``: the messages one hop of a chain is sent, and what comes back.

Follows Petals' client/inference_session.py. Rule of the file: a machine without I/O; ids come in as
arguments and every answer is checked before it is believed.
"""

from __future__ import annotations

import numpy as np

from ..compression.codec import deserialize, serialize
from ..errors import ProtocolError, UsageError
from ..ports import Floats
from ..wire import msgpack
from ..wire.messages import ExpertRequest, ExpertResponse

# args_structure: the three tensors are positional arguments (hidden, prompts, hypo_ids), no keywords
_ARGUMENTS: tuple[tuple[bytes, ...], dict[str, object]] = ((b"__T0", b"__T1", b"__T2"), {})
_NO_PROMPTS = np.zeros(0, dtype=np.float32)
_NO_HYPO_IDS = np.zeros(0, dtype=np.int64)


class HopSession:
    """One server's part of an inference session; hidden states are float32 [batch, n, hidden]."""

    def __init__(self, uid: str, session_id: str, max_length: int) -> None:
        self._uid = uid
        self._session_id = session_id
        self._max_length = max_length
        self._opened = False
        self._expected: tuple[int, ...] | None = None

    def step(self, hidden: Floats, step_id: str) -> bytes:
        """The next request; ``UsageError`` while the answer to the last one is still out."""
        if self._expected is not None:
            raise UsageError("the last step has not been answered yet; feed its answer first")
        metadata: dict[str, object] = {"session_id": self._session_id, "step_id": step_id}
        if not self._opened:
            metadata |= {"max_length": self._max_length, "points": 0, "active_adapter": ""}
        metadata["args_structure"] = _ARGUMENTS
        self._opened = True
        self._expected = hidden.shape
        tensors = tuple(serialize(array) for array in (hidden, _NO_PROMPTS, _NO_HYPO_IDS))
        return ExpertRequest(uid=self._uid, tensors=tensors, metadata=msgpack.dumps(metadata)).encode()

    def answer(self, message: bytes) -> Floats:
        """The hidden states of the last step; ``ProtocolError`` if they are not what was asked for."""
        expected, self._expected = self._expected, None
        if expected is None:
            raise ProtocolError("the server answered a step that was not sent")
        tensors = ExpertResponse.decode(message).tensors
        if len(tensors) != 1:
            raise ProtocolError(f"the server answered a step with {len(tensors)} tensors; one is due")
        hidden = deserialize(tensors[0])
        if hidden.shape != expected or not np.issubdtype(hidden.dtype, np.floating):
            raise ProtocolError(f"the server answered {hidden.dtype}{hidden.shape}; float{expected} is due")
        if not np.isfinite(hidden).all():
            raise ProtocolError("the server answered numbers that are not finite; it cannot be trusted")
        return np.asarray(hidden, dtype=np.float32)

    @staticmethod
    def end() -> bytes:
        """The request without tensors that ends a session."""
        return ExpertRequest().encode()

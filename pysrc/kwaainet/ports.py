"""The ports: what the node asks of a runtime. One page; adapters live in native/, browser/ and testing/.

Rule of the file: only ``typing.Protocol`` classes and the types of their arguments. Each adapter of
a port passes the port's compliance suite in ``kwaainet.testing.compliance``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import LocalError
from .types import BlockRange, PeerId, Progress, SpanShape

Floats: TypeAlias = NDArray[np.float32]
StepResult: TypeAlias = Floats | LocalError
Clock: TypeAlias = Callable[[], float]  # unix seconds
Report: TypeAlias = Callable[[Progress], None]


class Stream(Protocol):
    """One stream RPC (Hivemind's framing), seen as whole messages."""

    @property
    def remote_peer(self) -> PeerId:
        """The authenticated peer at the other end."""

    async def receive(self) -> bytes | None:
        """The next message, or ``None`` when the other end has said it is done.

        Raises ``RpcError`` (a callee's error frame), ``StreamReset`` (the other end vanished or
        cancelled), ``ProtocolError`` (malformed or oversize frame).
        """

    async def send(self, message: bytes) -> None:
        """Send one message; waits while the other end grants no window. Raises ``StreamReset``."""

    async def end(self) -> None:
        """Caller only: say that no more messages come, and keep reading."""

    async def close(self) -> None:
        """Give the stream up: a callee ends it, a caller cancels it. Never raises."""


UnaryHandler: TypeAlias = Callable[[PeerId, bytes], Awaitable[bytes]]
StreamHandler: TypeAlias = Callable[[Stream], Awaitable[None]]


class Host(Protocol):
    """A libp2p host that carries Hivemind RPCs.

    When a handler raises a ``KwaaiNetError`` the caller gets its text (unary: ``repr``, stream:
    an error frame); any other exception is logged and the caller gets a general error. When a
    stream handler returns, the host waits briefly for the caller's end frame and then closes.
    """

    @property
    def peer_id(self) -> PeerId:
        """Our own id."""

    @property
    def addresses(self) -> Sequence[str]:
        """Multiaddrs others can dial, with ``/p2p/ID`` at the end."""

    def handle_unary(self, protocol: str, handler: UnaryHandler) -> None:
        """Serve a unary RPC such as ``DHTProtocol.rpc_ping`` (the exact protocol id)."""

    def handle_stream(self, protocol: str, handler: StreamHandler) -> None:
        """Serve a stream RPC such as ``TransformerConnectionHandler.rpc_inference``."""

    async def listen(self) -> None:
        """Become reachable: bind, or reserve a relay slot. Raises ``Unreachable``."""

    async def call(self, peer: PeerId, protocol: str, request: bytes, *, timeout: float) -> bytes:
        """One unary RPC by bare peer id. Raises ``Unreachable``, ``RpcError``, ``StreamReset``,
        ``ProtocolError``; ``TimeoutError`` after ``timeout`` seconds."""

    async def open_stream(self, peer: PeerId, protocol: str, *, timeout: float) -> Stream:
        """Start a stream RPC; ``timeout`` covers dialling and negotiation only."""

    async def close(self) -> None:
        """Leave: an error frame to every stream still served, then close all connections."""


class Engine(Protocol):
    """Runs one span graph (see ``inference.graph``) and holds its KV caches.

    Calls are queued inside: one run at a time. A cache is an int handle; its batch and maximum
    length are fixed when opened.
    """

    @property
    def backend(self) -> str:
        """``cpu``, ``wasm`` or ``webgpu``."""

    @property
    def half(self) -> bool:
        """Whether it computes spans of half precision (``SpanShape.half``)."""

    @property
    def graphs(self) -> str:
        """What ``build`` takes: ``onnx`` (``inference.graph``) or ``program`` (``inference.program``)."""

    async def add_tensor(self, name: str, array: NDArray[Any]) -> None:
        """Hand over one of the span's tensors (``writer.SpanWriter``); the engine keeps its own copy."""

    async def build(self, graph: bytes, shape: SpanShape) -> None:
        """Build the session from the graph and the tensors added, and self-test it.

        Raises ``EngineError``, or ``CapacityError`` for more weights than the engine may hold; the
        tensors are released either way.
        """

    async def open_cache(self, batch: int, max_length: int, blocks: BlockRange | None = None) -> int:
        """Allocate KV for ``batch`` rows of up to ``max_length`` positions, length 0.

        ``blocks`` are those that the cache's runs go through, counted from the span's start; all of
        them unless said. The others pass on exactly what they get, yet take as much time and memory.
        Raises ``CapacityError`` where memory or the model's positions end, and ``EngineError`` for
        blocks that the span does not have.
        """

    async def run(self, cache: int, hidden: Floats) -> Floats:
        """hidden [batch, n, hidden] -> the same shape; appends n positions to the cache.

        Raises ``CapacityError`` (no room for n more) and ``EngineError``, which leave the cache as it
        was, or ``DeviceLost`` (all caches are gone).
        """

    async def run_many(self, steps: Sequence[tuple[int, Floats]]) -> list[StepResult]:
        """One new position for each of several caches, in as few runs of the graph as can be.

        ``steps`` are (cache, hidden [batch, 1, hidden]): batches, lengths, sizes and blocks may all
        differ. The answer has for each step, in order, what ``run`` would have returned, or the
        error that it would have raised: a step that cannot be run harms no other. Two steps of one
        cache are such an error. Raises only ``DeviceLost``. Cancelling leaves all caches as they were.
        """

    async def truncate(self, cache: int, length: int) -> None:
        """Roll back to the first ``length`` positions."""

    async def reorder(self, cache: int, rows: Sequence[int]) -> None:
        """Row i becomes what row ``rows[i]`` was (beam search's hypo_ids); the batch keeps its size."""

    async def close_cache(self, cache: int) -> None:
        """Release a cache; unknown handles are ignored."""

    async def close(self) -> None:
        """Release everything; the engine may be filled and built again afterwards."""


class Gradients(Protocol):
    """Runs single Llama blocks forward and backward, for training (see ``inference.llama_gradients``).

    Calls are queued inside: one run at a time. ``tables`` are those of the graphs, for as many
    positions as ``hidden`` float [batch, tokens, hidden] has; answers are shaped like it.
    """

    async def build(self, forward: bytes, backward: bytes) -> None:
        """Take the two graphs of a block. Raises ``EngineError``."""

    async def add_block(self, block: int, weights: Mapping[str, Floats]) -> None:
        """Hand over a block's weights by Hugging Face's names; raises ``CapacityError`` without room."""

    async def drop_block(self, block: int) -> None:
        """Release a block's weights; unknown blocks are ignored."""

    async def forward(self, block: int, hidden: Floats, tables: Mapping[str, Floats]) -> Floats:
        """The block's output. Raises ``EngineError``, ``CapacityError``."""

    async def backward(
        self, block: int, hidden: Floats, grad: Floats, tables: Mapping[str, Floats]
    ) -> Floats:
        """The gradient of the block's input, given that of its output. Raises as ``forward`` does."""

    async def close(self) -> None:
        """Release everything; may be built again afterwards."""


class BlobStore(Protocol):
    """Content-addressed bytes that outlive the process: keyed by lower-case sha256 hex."""

    async def get(self, digest: str) -> bytes | None:
        """The bytes, or ``None`` if absent or no longer matching their hash (then dropped)."""

    async def put(self, digest: str, data: bytes) -> None:
        """Keep bytes. Raises ``IntegrityError`` if they do not match; keeping is best effort:
        a full disk or quota is logged, not raised."""

    async def get_part(self, digest: str) -> bytes:
        """What ``put_part`` kept, from the blob's start on. Nobody has checked it: the whole's hash will."""

    async def put_part(self, digest: str, offset: int, data: bytes) -> None:
        """Keep more of a blob that is still being fetched, best effort.

        ``offset`` is where what is kept of it ends, or 0 to begin anew; elsewhere nothing is kept.
        Without ``data`` at 0 the part is dropped, as it is by ``put``.
        """


class RangeSource(Protocol):
    """Random access to a model's files, wherever they lie."""

    async def read(self, file: str, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes. Raises ``ModelFileError`` (short file) or ``Unreachable``."""


class Aead(Protocol):
    """ChaCha20-Poly1305 under one key; nonce is 12 bytes."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Raises ``HandshakeError`` or ``ProtocolError`` upstream: any exception means forged."""


class Exchange(Protocol):
    """An X25519 private key, read once; its ``public`` key has 32 bytes."""

    @property
    def public(self) -> bytes: ...

    def shared(self, public: bytes) -> bytes:
        """The 32-byte secret shared with the holder of another; ``ValueError`` for a low-order point."""


class Crypto(Protocol):
    """The primitives libp2p needs; synchronous."""

    def ed25519_public(self, seed: bytes) -> bytes: ...

    def ed25519_sign(self, seed: bytes, message: bytes) -> bytes: ...

    def verify(self, key_type: int, key: bytes, signature: bytes, message: bytes) -> bool:
        """libp2p key types: 0 RSA (DER), 1 Ed25519, 2 secp256k1, 3 ECDSA."""

    def x25519(self, private: bytes) -> Exchange: ...

    def chacha20poly1305(self, key: bytes) -> Aead: ...

"""The messages of Hivemind's protocols, in its words.

Follows hivemind's ``dht.proto``, ``runtime.proto`` and ``auth.proto`` and the unary envelope of
go-libp2p-daemon's ``p2pd.proto``. Rule of the file: declarations only, one class per message.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from .protobuf import BOOL, BYTES, DOUBLE, INT, STRING, UINT, VIEW, Message, many, one, optional, required
from .varint import BytesLike

# --- dht.proto: DHTProtocol.rpc_ping, rpc_store, rpc_find -------------------------------------


@dataclass(frozen=True, slots=True)
class AuthInfo(Message):
    """``RequestAuthInfo`` and ``ResponseAuthInfo``: nobody in a Petals swarm fills them in."""


@dataclass(frozen=True, slots=True)
class NodeInfo(Message):
    """The sender's DHTID (20 bytes); empty means "a client, do not add me to your table"."""

    node_id: bytes = one(1, BYTES)


@dataclass(frozen=True, slots=True)
class PingRequest(Message):
    """``validate`` asks the callee to ping back and report in ``available`` whether that worked."""

    auth: AuthInfo | None = optional(1, AuthInfo)
    peer: NodeInfo | None = optional(2, NodeInfo)
    validate: bool = one(3, BOOL)


@dataclass(frozen=True, slots=True)
class PingResponse(Message):
    """``dht_time`` is the callee's unix time in seconds."""

    auth: AuthInfo | None = optional(1, AuthInfo)
    peer: NodeInfo | None = optional(2, NodeInfo)
    dht_time: float = one(4, DOUBLE)
    available: bool = one(5, BOOL)


@dataclass(frozen=True, slots=True)
class StoreRequest(Message):
    """Parallel lists, one entry per record; ``keys`` are DHTIDs, expirations unix seconds.

    A subkey is msgpack: nil for a plain value, empty for a whole dictionary as the value.
    """

    auth: AuthInfo | None = optional(1, AuthInfo)
    keys: tuple[bytes, ...] = many(2, BYTES)
    subkeys: tuple[bytes, ...] = many(3, BYTES)
    values: tuple[bytes, ...] = many(4, BYTES)
    expiration_time: tuple[float, ...] = many(5, DOUBLE)
    in_cache: tuple[bool, ...] = many(6, BOOL)
    peer: NodeInfo | None = optional(7, NodeInfo)


@dataclass(frozen=True, slots=True)
class StoreResponse(Message):
    """One ``store_ok`` per key: false if the stored record is newer."""

    auth: AuthInfo | None = optional(1, AuthInfo)
    store_ok: tuple[bool, ...] = many(2, BOOL)
    peer: NodeInfo | None = optional(3, NodeInfo)


@dataclass(frozen=True, slots=True)
class FindRequest(Message):
    """``keys`` are DHTIDs."""

    auth: AuthInfo | None = optional(1, AuthInfo)
    keys: tuple[bytes, ...] = many(2, BYTES)
    peer: NodeInfo | None = optional(3, NodeInfo)


class ResultType(IntEnum):
    """What ``FindResult.value`` holds."""

    NOT_FOUND = 0
    FOUND_REGULAR = 1
    FOUND_DICTIONARY = 2


@dataclass(frozen=True, slots=True)
class FindResult(Message):
    """``type`` is a ``ResultType`` (or a number unknown to us); peer ids are multihash bytes."""

    type: int = one(1, UINT)
    value: bytes = one(2, BYTES)
    expiration_time: float = one(3, DOUBLE)
    nearest_node_ids: tuple[bytes, ...] = many(4, BYTES)
    nearest_peer_ids: tuple[bytes, ...] = many(5, BYTES)


@dataclass(frozen=True, slots=True)
class FindResponse(Message):
    """One result per key asked for."""

    auth: AuthInfo | None = optional(1, AuthInfo)
    results: tuple[FindResult, ...] = many(2, FindResult)
    peer: NodeInfo | None = optional(3, NodeInfo)


# --- runtime.proto: TransformerConnectionHandler ----------------------------------------------


@dataclass(frozen=True, slots=True)
class Tensor(Message):
    """A serialized tensor, or a part of one; see ``kwaainet.compression.codec``.

    ``buffer`` is decoded as a memoryview of the message's bytes. ``dtype`` is numpy's name, such as
    ``float32``; ``compression`` a ``CompressionType``. ``chunks`` is the count of parts when split.
    """

    buffer: BytesLike = one(1, VIEW)
    size: tuple[int, ...] = many(2, UINT)
    requires_grad: bool = one(3, BOOL)
    dtype: str = one(4, STRING)
    compression: int = one(5, UINT)
    chunks: int = one(6, INT)


@dataclass(frozen=True, slots=True)
class ExpertUID(Message):
    """Request of ``rpc_info``; a block's uid or nothing."""

    uid: str = one(1, STRING)


@dataclass(frozen=True, slots=True)
class ExpertInfo(Message):
    """Reply of ``rpc_info``: a msgpack map."""

    serialized_info: bytes = one(1, BYTES)


@dataclass(frozen=True, slots=True)
class ExpertRequest(Message):
    """``uid`` is one or more block uids with spaces between; ``metadata`` a msgpack map."""

    uid: str = one(1, STRING)
    tensors: tuple[Tensor, ...] = many(2, Tensor)
    metadata: bytes = one(3, BYTES)


@dataclass(frozen=True, slots=True)
class ExpertResponse(Message):
    """``metadata`` is a msgpack map or empty."""

    tensors: tuple[Tensor, ...] = many(2, Tensor)
    metadata: bytes = one(3, BYTES)


@dataclass(frozen=True, slots=True)
class RPCError(Message):
    """Payload of a stream's 0x01 frame; an empty message from the caller ends its input."""

    message: str = one(1, STRING)


# --- p2pd.proto: the unary envelope -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallUnaryRequest(Message):
    """``peer`` is the callee's id as the caller wrote it: never trust it."""

    peer: bytes = required(1, BYTES)
    proto: str = required(2, STRING)
    data: bytes = required(3, BYTES)


@dataclass(frozen=True, slots=True)
class CallUnaryResponse(Message):
    """Exactly one of the two is set; ``error`` is UTF-8 text."""

    response: bytes | None = optional(1, BYTES)
    error: bytes | None = optional(2, BYTES)


@dataclass(frozen=True, slots=True)
class UnaryRequest(Message):
    """``PersistentConnectionRequest`` on its way to the callee; ``call_id`` is 16 bytes."""

    call_id: bytes = required(1, BYTES)
    call: CallUnaryRequest | None = optional(3, CallUnaryRequest)


@dataclass(frozen=True, slots=True)
class UnaryResponse(Message):
    """``PersistentConnectionRequest`` on its way back, with the caller's ``call_id``."""

    call_id: bytes = required(1, BYTES)
    reply: CallUnaryResponse | None = optional(4, CallUnaryResponse)

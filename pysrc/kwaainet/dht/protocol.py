"""The three RPCs of Hivemind's DHT in terms of ids, records and neighbours, for both ends.

Follows ``hivemind/dht/protocol.py`` and ``dht.proto``. A caller encodes requests and decodes
replies, a callee the other way round. Rule of the file: what comes out of a decoder is within the
caps stated here, and one bad record or neighbour in a reply does not spoil the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import ClockSkew, InputError, LimitExceeded, ProtocolError, RequestError
from ..types import PeerId
from ..wire import messages, msgpack
from .key import DHTID
from .record import Dictionary, Record, Subkey, Value
from .routing_table import Neighbour

RPC_PING = "DHTProtocol.rpc_ping"
RPC_STORE = "DHTProtocol.rpc_store"
RPC_FIND = "DHTProtocol.rpc_find"

MAX_CLOCK_SKEW = 3.0  # seconds; Hivemind refuses to join beyond it
MAX_KEYS_PER_STORE = 4096  # a real node hands over all it has in one request
MAX_KEYS_PER_FIND = 1024  # each key is answered with up to 20 neighbours of 62 bytes
MAX_NEIGHBOURS = 64  # read per key of a reply; nodes send 20
MAX_RECORDS_SIZE = 2 * 1024 * 1024  # bytes of records in one request or reply; 4 MiB in all may pass
_ENTRY_SIZE = 13  # bytes that an entry of a dictionary takes at least: subkey, value, expiration, frame
_MAX_TAG_SIZE = 4096  # bytes of an encoded subkey

_PLAIN = msgpack.dumps(None)  # the subkey that says: a plain value
_WHOLE_DICTIONARY = b""  # the subkey that says: the value is a dictionary


# --- ping -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ping:
    """``node_id`` is ``None`` for a client, which stands in nobody's table. ``validate``: ping me
    back and tell whether that worked."""

    node_id: DHTID | None
    validate: bool

    def encode(self) -> bytes:
        return messages.PingRequest(peer=_node_info(self.node_id), validate=self.validate).encode()

    @classmethod
    def decode(cls, data: bytes) -> Ping:
        request = messages.PingRequest.decode(data)
        return cls(_node_id(request.peer), request.validate)


@dataclass(frozen=True, slots=True)
class Pong:
    """``dht_time``: unix seconds at the callee. ``available``: it could ping us back."""

    node_id: DHTID | None
    dht_time: float
    available: bool

    def encode(self) -> bytes:
        return messages.PingResponse(
            peer=_node_info(self.node_id), dht_time=self.dht_time, available=self.available
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> Pong:
        reply = messages.PingResponse.decode(data)
        return cls(_node_id(reply.peer), reply.dht_time, reply.available)

    def check_clock(self, sent: float, received: float) -> None:
        """Raise ``ClockSkew`` unless it was said between the two times, give or take 3 s."""
        if self.dht_time == 0:  # an implementation that does not tell
            return
        if not sent - MAX_CLOCK_SKEW <= self.dht_time <= received + MAX_CLOCK_SKEW:
            ahead = self.dht_time - received
            raise ClockSkew(
                f"the peer's clock is {ahead:+.3f} s from ours and records would expire at the wrong time; "
                f"set the clock (at most {MAX_CLOCK_SKEW:g} s apart are allowed)"
            )


# --- store ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One record to keep: with a ``subkey``, ``record`` is one value of a dictionary."""

    key: DHTID
    record: Record
    subkey: Subkey | None = None


@dataclass(frozen=True, slots=True)
class Store:
    """``entries`` holds ``None`` for those that only belong in a cache, which we do not keep."""

    node_id: DHTID | None
    entries: tuple[Entry | None, ...]

    def encode(self) -> bytes:
        entries = [entry for entry in self.entries if entry is not None]
        return messages.StoreRequest(
            keys=tuple(entry.key.encode() for entry in entries),
            subkeys=tuple(map(_encode_tag, entries)),
            values=tuple(_encode_record(entry.record) for entry in entries),
            expiration_time=tuple(entry.record.expiration for entry in entries),
            in_cache=(False,) * len(entries),
            peer=_node_info(self.node_id),
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> Store:
        """Raises ``RequestError`` if its lists do not belong together, ``LimitExceeded``."""
        request = messages.StoreRequest.decode(data)
        count = len(request.keys)
        lists = (request.subkeys, request.values, request.expiration_time, request.in_cache)
        if any(len(items) != count for items in lists):
            raise RequestError(
                f"{count} keys come with {', '.join(str(len(items)) for items in lists)} items"
            )
        if count > MAX_KEYS_PER_STORE:
            raise LimitExceeded(f"{count} keys in one store; at most {MAX_KEYS_PER_STORE} are taken")
        rows = zip(request.keys, *lists, strict=True)
        return cls(_node_id(request.peer), tuple(_decode_entry(*row) for row in rows))


def batches(entries: Iterable[Entry]) -> Iterator[tuple[Entry, ...]]:
    """Entries in groups of which each fits one request."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        added = len(_encode_record(entry.record))
        if batch and (size + added > MAX_RECORDS_SIZE or len(batch) == MAX_KEYS_PER_STORE):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(entry)
        size += added
    if batch:
        yield tuple(batch)


@dataclass(frozen=True, slots=True)
class Stored:
    """For each entry whether it was accepted."""

    node_id: DHTID | None
    accepted: tuple[bool, ...]

    def encode(self) -> bytes:
        return messages.StoreResponse(store_ok=self.accepted, peer=_node_info(self.node_id)).encode()

    @classmethod
    def decode(cls, data: bytes, count: int) -> Stored:
        """The reply to ``count`` entries."""
        reply = messages.StoreResponse.decode(data)
        if len(reply.store_ok) != count:
            raise ProtocolError(f"{count} records were stored, {len(reply.store_ok)} are answered for")
        return cls(_node_id(reply.peer), reply.store_ok)


# --- find -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Find:
    """Records under these keys, please, and nodes near to them."""

    node_id: DHTID | None
    keys: tuple[DHTID, ...]

    def encode(self) -> bytes:
        keys = tuple(key.encode() for key in self.keys)
        return messages.FindRequest(keys=keys, peer=_node_info(self.node_id)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Find:
        request = messages.FindRequest.decode(data)
        if len(request.keys) > MAX_KEYS_PER_FIND:
            raise LimitExceeded(
                f"{len(request.keys)} keys in one find; at most {MAX_KEYS_PER_FIND} are looked up"
            )
        return cls(_node_id(request.peer), tuple(map(DHTID.decode, request.keys)))


@dataclass(frozen=True, slots=True)
class Result:
    """What a node knows of a key, and the nodes nearest to it, nearest first."""

    record: Record | None
    nearest: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """One result per key, in the order of the request."""

    node_id: DHTID | None
    results: tuple[Result, ...]

    def encode(self) -> bytes:
        """Records beyond ``MAX_RECORDS_SIZE`` are left out; the caller gets them key by key."""
        left, results = MAX_RECORDS_SIZE, []
        encoded: dict[int, bytes] = {}  # by identity: the same key may be asked for a thousand times
        for result in self.results:
            value, record = None, result.record
            if record is not None and _least_size(record) <= left:
                value = encoded[id(record)] = encoded.get(id(record)) or _encode_record(record)
            if value is None or len(value) > left:
                result, value = Result(None, result.nearest), b""
            left -= len(value)
            results.append(_encode_result(result, value))
        return messages.FindResponse(results=tuple(results), peer=_node_info(self.node_id)).encode()

    @classmethod
    def decode(cls, data: bytes, count: int) -> Found:
        """The reply about ``count`` keys."""
        reply = messages.FindResponse.decode(data)
        if len(reply.results) != count:
            raise ProtocolError(f"{count} keys were asked for, {len(reply.results)} are answered")
        return cls(_node_id(reply.peer), tuple(map(_decode_result, reply.results)))


# --- pieces -----------------------------------------------------------------------------------


def _node_info(node_id: DHTID | None) -> messages.NodeInfo:
    return messages.NodeInfo(b"" if node_id is None else node_id.encode())


def _node_id(peer: messages.NodeInfo | None) -> DHTID | None:
    return DHTID.decode(peer.node_id) if peer is not None and peer.node_id else None


def _encode_tag(entry: Entry) -> bytes:
    if isinstance(entry.record, Dictionary):
        return _WHOLE_DICTIONARY
    return _PLAIN if entry.subkey is None else msgpack.dumps(entry.subkey)


def _encode_record(record: Record) -> bytes:
    return record.encode() if isinstance(record, Dictionary) else record.data


def _least_size(record: Record) -> int:
    """No more bytes than it takes encoded, without encoding it: that takes long for a large one."""
    if isinstance(record, Dictionary):
        return _ENTRY_SIZE * len(record.entries)
    return len(record.data)


def _decode_entry(key: bytes, tag: bytes, value: bytes, expiration: float, in_cache: bool) -> Entry | None:
    if len(tag) > _MAX_TAG_SIZE:
        raise LimitExceeded(f"a subkey of {len(tag)} bytes; at most {_MAX_TAG_SIZE} are taken")
    node_key = DHTID.decode(key)
    if in_cache or not math.isfinite(expiration):
        return None
    if tag == _WHOLE_DICTIONARY:
        dictionary = Dictionary.decode(value)
        return Entry(node_key, dictionary) if dictionary is not None else None
    if tag == _PLAIN:
        return Entry(node_key, Value(value, expiration))
    return Entry(node_key, Value(value, expiration), _decode_subkey(tag))


def _decode_subkey(tag: bytes) -> Subkey:
    subkey = msgpack.loads(tag)
    if not isinstance(subkey, str | bytes | int | float):
        raise RequestError(f"a subkey of type {type(subkey).__name__}; text, bytes and numbers are kept")
    return subkey


def _encode_result(result: Result, value: bytes) -> messages.FindResult:
    kind, expiration = messages.ResultType.NOT_FOUND, 0.0
    if result.record is not None:
        is_dictionary = isinstance(result.record, Dictionary)
        kind = messages.ResultType.FOUND_DICTIONARY if is_dictionary else messages.ResultType.FOUND_REGULAR
        expiration = result.record.expiration
    return messages.FindResult(
        type=kind,
        value=value,
        expiration_time=expiration,
        nearest_node_ids=tuple(node.node_id.encode() for node in result.nearest),
        nearest_peer_ids=tuple(node.peer_id.data for node in result.nearest),
    )


def _decode_result(result: messages.FindResult) -> Result:
    try:
        record = _decode_record(result)
    except ProtocolError:  # somebody stored rubbish there; the node that keeps it is not to blame
        record = None
    return Result(record, _decode_neighbours(result.nearest_node_ids, result.nearest_peer_ids))


def _decode_record(result: messages.FindResult) -> Record | None:
    if result.type == messages.ResultType.FOUND_DICTIONARY:
        return Dictionary.decode(result.value)
    if result.type == messages.ResultType.FOUND_REGULAR and math.isfinite(result.expiration_time):
        return Value(result.value, result.expiration_time)
    return None


def _decode_neighbours(node_ids: Sequence[bytes], peer_ids: Sequence[bytes]) -> tuple[Neighbour, ...]:
    found = []
    for node_id, peer_id in list(zip(node_ids, peer_ids, strict=False))[:MAX_NEIGHBOURS]:
        try:
            found.append(Neighbour(DHTID.decode(node_id), PeerId(peer_id)))
        except (ProtocolError, InputError):
            continue
    return tuple(found)

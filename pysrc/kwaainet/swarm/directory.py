"""The message with which a tab reads the swarm through its relay: RPC ``RelayProtocol.rpc_read_servers``.

A tab can dial nobody but its relay, so it cannot walk the DHT. The request is a MessagePack map
{prefix, start, end}; the reply a list of [peer id, value, ranges]: ``value`` is the record's own bytes
(``ServerInfo``), ``ranges`` the blocks it stands under as a flat list of starts and ends. A server's
records are the same for all of its blocks, so each travels once. Rule of the file: both ends check
everything, and an entry that is no server's is passed over, as when the DHT itself is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import InputError, KwaaiNetError, LimitExceeded, ProtocolError
from ..types import BlockRange, PeerId, ServerState
from ..wire import msgpack
from . import blocks
from .server_info import ServerInfo

PROTOCOL = "RelayProtocol.rpc_read_servers"
MAX_QUERY_SIZE = 1024  # bytes; a prefix is at most 128 characters
MAX_REPLY_SIZE = 1 << 20  # bytes
MAX_SERVERS = 1024  # of one reply
_ENTRY_BYTES = 96  # of one entry beside its value: the peer id, one or two ranges

Records = Sequence[Mapping[PeerId, ServerInfo]]  # of consecutive blocks


@dataclass(frozen=True, slots=True)
class Query:
    """Which blocks' records are wanted."""

    prefix: str
    blocks: BlockRange

    def encode(self) -> bytes:
        """The request."""
        return msgpack.dumps({"prefix": self.prefix, "start": self.blocks.start, "end": self.blocks.end})

    @classmethod
    def decode(cls, data: bytes) -> Query:
        """Inverse of ``encode``; ``ProtocolError`` (``LimitExceeded`` for an oversize request)."""
        if len(data) > MAX_QUERY_SIZE:
            raise LimitExceeded(f"a query of {len(data)} bytes; at most {MAX_QUERY_SIZE} are allowed")
        value = msgpack.loads(data)
        match value:
            case {"prefix": str(prefix), "start": int(start), "end": int(end)} if end <= blocks.MAX_BLOCKS:
                pass
            case _:
                raise ProtocolError(
                    f"query: {str(value)[:80]!r}; expected a map of prefix, start and end, and at most "
                    f"{blocks.MAX_BLOCKS} blocks"
                )
        try:
            return cls(blocks.check_prefix(prefix), BlockRange(start, end))
        except InputError as error:
            raise ProtocolError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Entry:
    """One server's record and the blocks that it stands under."""

    peer: PeerId
    value: bytes
    info: ServerInfo
    blocks: tuple[int, ...]  # ascending


def collect(records: Iterable[Iterable[tuple[object, bytes]]], first_block: int) -> list[Entry]:
    """The servers in the (subkey, value) pairs of blocks ``first_block``, ``first_block + 1``, ….

    Each distinct record is decoded once. Anybody may store anything there: what is not a server's,
    and servers that say they are offline, are left out.
    """
    places: dict[tuple[object, bytes], list[int]] = {}
    for block, entries in enumerate(records, first_block):
        for subkey, value in entries:
            places.setdefault((subkey, value), []).append(block)
    found = []
    for (subkey, value), at in places.items():
        if not isinstance(subkey, str):
            continue
        try:
            entry = Entry(PeerId.parse(subkey), value, ServerInfo.decode(value), tuple(at))
        except KwaaiNetError:
            continue
        if entry.info.state != ServerState.OFFLINE:
            found.append(entry)
    return found


def spread(entries: Iterable[Entry], asked: BlockRange) -> list[dict[PeerId, ServerInfo]]:
    """The same by block: what stands under ``asked.start``, ``asked.start + 1``, …."""
    records: list[dict[PeerId, ServerInfo]] = [{} for _ in range(len(asked))]
    for entry in entries:
        for block in entry.blocks:
            records[block - asked.start][entry.peer] = entry.info
    return records


def encode_reply(entries: Iterable[Entry]) -> bytes:
    """The reply: the fastest ``MAX_SERVERS`` servers that fit ``MAX_REPLY_SIZE``, ONLINE ones first."""
    ranked = sorted(entries, key=lambda entry: (-entry.info.state, -entry.info.throughput, entry.peer))
    items, size = [], 0
    for entry in ranked[:MAX_SERVERS]:
        edges = [edge for start, end in ranges(entry.blocks) for edge in (start, end)]
        size += len(entry.value) + _ENTRY_BYTES + 3 * len(edges)
        if size > MAX_REPLY_SIZE:
            break
        items.append([entry.peer.data, entry.value, edges])
    return msgpack.dumps(items)


def decode_reply(data: bytes, asked: BlockRange) -> list[Entry]:
    """Inverse of ``encode_reply``; ``ProtocolError`` for what is no reply, ``LimitExceeded`` for too much."""
    if len(data) > MAX_REPLY_SIZE:
        raise LimitExceeded(f"a directory of {len(data)} bytes; at most {MAX_REPLY_SIZE} are allowed")
    items = msgpack.loads(data)
    if not isinstance(items, list) or len(items) > MAX_SERVERS:
        raise ProtocolError(f"directory: expected a list of at most {MAX_SERVERS} servers")
    return [entry for item in items if (entry := _entry(item, asked)) is not None]


def _entry(item: object, asked: BlockRange) -> Entry | None:
    """One server; ``None`` where the relay passes on what is not one."""
    match item:
        case [bytes(peer), bytes(value), list(edges)]:
            at = _blocks(edges, asked)
        case _:
            raise ProtocolError("directory: an entry is not [peer id, record, ranges]")
    try:
        return Entry(PeerId(peer), value, ServerInfo.decode(value), at)
    except KwaaiNetError:
        return None


def _blocks(edges: list[object], asked: BlockRange) -> tuple[int, ...]:
    """Ascending ranges within ``asked``, as their blocks."""
    if len(edges) % 2:
        raise ProtocolError(f"directory: {len(edges)} starts and ends do not pair up")
    at: list[int] = []
    lowest = asked.start
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if not (type(start) is int and type(end) is int and lowest <= start < end <= asked.end):
            raise ProtocolError(f"directory: {str(edges)[:80]} are no ranges within {asked}")
        at += range(start, end)
        lowest = end
    return tuple(at)


def ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending numbers as ranges (start, end)."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number:
            ranges[-1] = (ranges[-1][0], number + 1)
        else:
            ranges.append((number, number + 1))
    return ranges

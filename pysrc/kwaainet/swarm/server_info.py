"""What a server says about itself in the DHT, and the spans that follow from it.

Follows Petals' ``ServerInfo``/``ModelInfo`` (data_structures.py) and ``compute_spans`` (utils/dht.py):
the value under ``{prefix}.{i}``, subkey peer id, is MessagePack of tuple(state, throughput, map).
Rule of the file: what we write is byte for byte what Petals writes; what we read is checked as
strictly as Petals does (floats must be floats), unknown keys are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import ProtocolError
from ..types import BlockRange, PeerId, ServerState
from ..wire import msgpack
from .blocks import MAX_BLOCKS

MODELS_KEY = "_petals.models"  # its subkeys are DHT prefixes, its values ModelInfo
MAX_TEXT_LENGTH = 256  # characters of one text field
MAX_ADAPTERS = 64
MAX_PINGS = 256
MAX_COUNT = 1 << 53  # cache tokens: what every reader's number type holds


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """One server as it announces itself. Rates are per second, pings are seconds.

    ``cache_tokens_left`` counts keys and values of single blocks, as Petals' clients expect: one
    token in a span of n blocks takes 2n of them.
    """

    state: ServerState
    throughput: float
    start_block: int | None = None
    end_block: int | None = None
    public_name: str | None = None
    version: str | None = None
    network_rps: float | None = None
    forward_rps: float | None = None
    inference_rps: float | None = None
    adapters: tuple[str, ...] = ()
    torch_dtype: str | None = None
    quant_type: str | None = None
    using_relay: bool | None = None
    cache_tokens_left: int | None = None
    next_pings: Mapping[str, float] | None = None

    @property
    def blocks(self) -> BlockRange | None:
        """The span announced, or ``None`` if it is absent or not a range of blocks."""
        start, end = self.start_block, self.end_block
        if start is None or end is None or not start < end <= MAX_BLOCKS:
            return None
        return BlockRange(start, end)

    def with_state(self, state: ServerState) -> ServerInfo:
        """The same server in another state; an offline one lists no pings."""
        pings = None if state == ServerState.OFFLINE else self.next_pings
        return replace(self, state=state, next_pings=pings)

    def to_value(self) -> tuple[int, float, dict[str, Any]]:
        """The value as MessagePack sees it."""
        rest = {name: getattr(self, name) for name in _FIELDS}
        rest["next_pings"] = None if self.next_pings is None else dict(self.next_pings)
        return (int(self.state), self.throughput, rest)

    def encode(self) -> bytes:
        """The DHT value."""
        return msgpack.dumps(self.to_value())

    @classmethod
    def from_value(cls, value: object) -> ServerInfo:
        """Inverse of ``to_value``; ``ProtocolError`` names the field that is wrong."""
        if not isinstance(value, tuple | list) or len(value) < 2:
            raise ProtocolError("server info: expected (state, throughput, map)")
        rest = value[2] if len(value) > 2 else {}
        if not isinstance(rest, dict):
            raise ProtocolError(f"server info: the third element is a {type(rest).__name__}, not a map")
        if type(value[0]) is not int or value[0] not in ServerState.__members__.values():
            raise ProtocolError(f"server info: state {str(value[0])[:40]!r} is none of 0, 1, 2")
        known = {name: rest[name] for name in _FIELDS if name in rest}
        for name, item in known.items():
            if not (item is None and name != "adapters") and not _CHECKS[name](item):
                raise ProtocolError(f"server info: {name} is {str(item)[:80]!r}, which is not allowed")
        if not _is_rate(value[1]):
            raise ProtocolError(f"server info: throughput is {str(value[1])[:40]!r}, not a rate")
        if "adapters" in known:
            known["adapters"] = tuple(known["adapters"])
        return cls(ServerState(value[0]), value[1], **known)

    @classmethod
    def decode(cls, data: bytes) -> ServerInfo:
        """Inverse of ``encode``; ``ProtocolError``."""
        return cls.from_value(msgpack.loads(data))


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What ``_petals.models`` says of a model; health monitors list it by its repository."""

    num_blocks: int
    repository: str | None = None

    def to_value(self) -> dict[str, Any]:
        """The value as MessagePack sees it."""
        return {"num_blocks": self.num_blocks, "repository": self.repository}

    def encode(self) -> bytes:
        """The DHT value."""
        return msgpack.dumps(self.to_value())

    @classmethod
    def from_value(cls, value: object) -> ModelInfo:
        """Inverse of ``to_value``; ``ProtocolError`` names the field that is wrong."""
        if not isinstance(value, dict):
            raise ProtocolError("model info: expected a map of num_blocks and repository")
        count, repository = value.get("num_blocks"), value.get("repository")
        if type(count) is not int or not 1 <= count <= MAX_BLOCKS:
            raise ProtocolError(
                f"model info: num_blocks is {str(count)[:40]!r}; 1 to {MAX_BLOCKS} is allowed"
            )
        if repository is not None and not _is_text(repository):
            raise ProtocolError(f"model info: repository is {str(repository)[:80]!r}, not a short text")
        return cls(count, repository)

    @classmethod
    def decode(cls, data: bytes) -> ModelInfo:
        """Inverse of ``encode``; ``ProtocolError``."""
        return cls.from_value(msgpack.loads(data))


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive blocks that one server announces."""

    peer: PeerId
    blocks: BlockRange
    info: ServerInfo


def compute_spans(
    records: Sequence[Mapping[PeerId, ServerInfo]],
    *,
    first_block: int = 0,
    min_state: ServerState = ServerState.ONLINE,
) -> list[Span]:
    """The spans behind the records of blocks ``first_block``, ``first_block + 1``, …, by start.

    As in Petals, a server's own start and end count, cut to the blocks asked about; without them
    its span is what its records cover.
    """
    spans: dict[PeerId, Span] = {}
    for block, servers in enumerate(records, first_block):
        for peer, info in servers.items():
            known = spans.get(peer)
            if info.state < min_state:
                continue
            if known is None or known.info.state < info.state:
                end = first_block + len(records)
                spans[peer] = Span(peer, _cut(info.blocks, first_block, end, block), info)
            elif known.info.state == info.state and block == known.blocks.end:
                spans[peer] = Span(peer, BlockRange(known.blocks.start, block + 1), known.info)
    return sorted(spans.values(), key=lambda span: (span.blocks.start, span.blocks.end, span.peer.data))


def _cut(announced: BlockRange | None, first: int, end: int, block: int) -> BlockRange:
    if announced is None or block not in announced:
        return BlockRange(block, block + 1)
    return BlockRange(max(announced.start, first), min(announced.end, end))


def _is_rate(value: object) -> bool:
    return type(value) is float and math.isfinite(value) and value >= 0


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_COUNT


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT_LENGTH


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _are_adapters(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) <= MAX_ADAPTERS and all(map(_is_text, value))


def _are_pings(value: object) -> bool:
    """Unlike rates, a ping may be infinite: Petals writes that for a peer that did not answer."""
    if not isinstance(value, dict) or len(value) > MAX_PINGS:
        return False
    return all(_is_text(peer) and type(rtt) is float and rtt >= 0 for peer, rtt in value.items())


_FIELDS = tuple(field.name for field in fields(ServerInfo) if field.name not in ("state", "throughput"))
_CHECKS: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(("start_block", "end_block", "cache_tokens_left"), _is_count),
    **dict.fromkeys(("public_name", "version", "torch_dtype", "quant_type"), _is_text),
    **dict.fromkeys(("network_rps", "forward_rps", "inference_rps"), _is_rate),
    "adapters": _are_adapters,
    "using_relay": _is_bool,
    "next_pings": _are_pings,
}

"""The message with which a tab asks its relay to announce it: RPC ``RelayProtocol.rpc_announce``.

A tab can dial nobody but its relay, so the relay's DHT node stores the tab's records. The message is
a MessagePack map {prefix, server, ttl, model}; the relay adds what the tab must not choose: the
subkey (the authenticated peer) and the absolute expiration. Rule of the file: every field has a
cap, and what a message stands for is computed here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..dht.record import StoreItem
from ..errors import InputError, LimitExceeded, ProtocolError
from ..types import BlockRange, PeerId, ServerState
from ..wire import msgpack
from . import blocks
from .server_info import MODELS_KEY, ModelInfo, ServerInfo

PROTOCOL = "RelayProtocol.rpc_announce"
MAX_MESSAGE_SIZE = 64 * 1024  # bytes; 256 pings of full peer ids come to 16 KiB
MIN_TTL, MAX_TTL = 5.0, 900.0  # seconds; Petals' own records live 240


@dataclass(frozen=True, slots=True)
class Announcement:
    """A server's announcement: its records live ``ttl`` seconds from when they are stored.

    ``server`` carries its state and its span; ``model`` stands under ``_petals.models`` unless the
    prefix begins with an underscore.
    """

    prefix: str
    server: ServerInfo
    ttl: float
    model: ModelInfo | None = None

    def __post_init__(self) -> None:
        blocks.check_prefix(self.prefix)
        if not MIN_TTL <= self.ttl <= MAX_TTL:
            raise InputError(f"announcement: ttl is {self.ttl} s; {MIN_TTL:g} to {MAX_TTL:g} are allowed")
        span = self.span
        if self.model is not None and span.end > self.model.num_blocks:
            raise InputError(f"announcement: blocks {span} of a model of {self.model.num_blocks}")

    @property
    def span(self) -> BlockRange:
        """The blocks announced; ``InputError`` without them."""
        span = self.server.blocks
        if span is None:
            raise InputError(
                f"announcement: start_block {self.server.start_block} and end_block {self.server.end_block} "
                f"are no range of at most {blocks.MAX_BLOCKS} blocks"
            )
        return span

    def with_state(self, state: ServerState) -> Announcement:
        """The same announcement in another state."""
        return replace(self, server=self.server.with_state(state))

    def encode(self) -> bytes:
        """The message."""
        model = None if self.model is None else self.model.to_value()
        return msgpack.dumps(
            {"prefix": self.prefix, "server": self.server.to_value(), "ttl": self.ttl, "model": model}
        )

    @classmethod
    def decode(cls, data: bytes) -> Announcement:
        """Inverse of ``encode``; ``ProtocolError`` (``LimitExceeded`` for an oversize message)."""
        if len(data) > MAX_MESSAGE_SIZE:
            raise LimitExceeded(f"announcement of {len(data)} bytes; at most {MAX_MESSAGE_SIZE} are allowed")
        value = msgpack.loads(data)
        if not isinstance(value, dict):
            raise ProtocolError(f"announcement: expected a map, got {type(value).__name__}")
        prefix, ttl, model = value.get("prefix"), value.get("ttl"), value.get("model")
        if not isinstance(prefix, str):
            raise ProtocolError(f"announcement: prefix is {str(prefix)[:80]!r}, not a text")
        if type(ttl) is not float:
            raise ProtocolError(f"announcement: ttl is {str(ttl)[:40]!r}, not a float")
        server = ServerInfo.from_value(value.get("server"))
        try:
            return cls(prefix, server, ttl, None if model is None else ModelInfo.from_value(model))
        except InputError as error:
            raise ProtocolError(str(error)) from error

    def records(self, peer: PeerId, expiration: float) -> list[StoreItem]:
        """What stands in the DHT for it: one record a block, and the model's."""
        subkey, value = str(peer), self.server.encode()
        span = self.span
        records = [
            StoreItem(blocks.uid(self.prefix, block), subkey, value, expiration)
            for block in range(span.start, span.end)
        ]
        offline = self.server.state == ServerState.OFFLINE
        if self.model is not None and not offline and not self.prefix.startswith("_"):
            records.append(StoreItem(MODELS_KEY, self.prefix, self.model.encode(), expiration))
        return records

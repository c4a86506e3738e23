"""The message with which one node asks another for a part of a tensor: RPC ``BlobProtocol.rpc_read``.

Our own protocol: a Petals server does not know it and says so. The request is a MessagePack map
{sha256, offset, length}, the reply the bytes themselves. Rule of the file: a reply is believed only
after the whole tensor has the hash that the manifest states, so the message carries none.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import LimitExceeded, ProtocolError
from ..wire import msgpack

PROTOCOL = "BlobProtocol.rpc_read"
MAX_REQUEST_SIZE = 256  # bytes
MAX_LENGTH = 1 << 20  # bytes of one reply: far below a unary call's limit, and no long wait for others
MAX_BLOB = 8 << 30  # bytes, as in a manifest


@dataclass(frozen=True, slots=True)
class BlobPart:
    """``length`` bytes at ``offset`` of the blob with this hash (32 bytes)."""

    sha256: bytes
    offset: int
    length: int

    def encode(self) -> bytes:
        """The request."""
        return msgpack.dumps({"sha256": self.sha256, "offset": self.offset, "length": self.length})

    @classmethod
    def decode(cls, data: bytes) -> BlobPart:
        """Inverse of ``encode``; ``ProtocolError`` (``LimitExceeded`` for one that asks too much)."""
        if len(data) > MAX_REQUEST_SIZE:
            raise LimitExceeded(f"a request of {len(data)} bytes; at most {MAX_REQUEST_SIZE} are allowed")
        match value := msgpack.loads(data):
            case {"sha256": bytes(digest), "offset": int(offset), "length": int(length)} if len(digest) == 32:
                pass
            case _:
                raise ProtocolError(f"blob part: {str(value)[:80]!r}; expected sha256, offset and length")
        if not (0 < length <= MAX_LENGTH and 0 <= offset <= MAX_BLOB):
            raise LimitExceeded(f"{length} bytes at {offset} were asked for; 1 to {MAX_LENGTH} are allowed")
        return cls(digest, offset, length)

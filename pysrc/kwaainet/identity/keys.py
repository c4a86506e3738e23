"""libp2p key pairs and peer ids.

Follows the libp2p peer-ids spec. Our own keys are Ed25519; those of others may be of any type a
peer id can be made from. Rule of the file: key material only, the arithmetic is ``ports.Crypto``'s.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from ..errors import InputError, ProtocolError
from ..ports import Crypto
from ..types import PeerId
from ..wire import protobuf

RSA, ED25519, SECP256K1, ECDSA = range(4)

MAX_KEY_SIZE = 2048  # bytes; an RSA-8192 public key takes about 1,060
_MAX_INLINE = 42  # keys up to this size are the peer id, larger ones are hashed
_SEED_SIZE = 32
_IDENTITY = b"\x00"
_SHA256 = b"\x12\x20"


@dataclass(frozen=True, slots=True)
class _KeyMessage(protobuf.Message):
    """``PublicKey`` and ``PrivateKey`` of libp2p's keys.proto."""

    type: int = protobuf.required(1, protobuf.UINT)
    data: bytes = protobuf.required(2, protobuf.BYTES)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: ``key_type`` 0 RSA (DER), 1 Ed25519, 2 secp256k1, 3 ECDSA (DER)."""

    key_type: int
    data: bytes

    def encode(self) -> bytes:
        """The protobuf form, which the peer id is made of."""
        return _KeyMessage(self.key_type, self.data).encode()

    @classmethod
    def decode(cls, data: bytes) -> PublicKey:
        """From the protobuf form. Raises ``ProtocolError``."""
        if len(data) > MAX_KEY_SIZE:
            raise ProtocolError(f"a public key of {len(data)} bytes is over the {MAX_KEY_SIZE} allowed")
        message = _KeyMessage.decode(data)
        if not RSA <= message.type <= ECDSA:
            raise ProtocolError(f"public key type {message.type} is unknown")
        return cls(message.type, message.data)

    def verify(self, crypto: Crypto, signature: bytes, message: bytes) -> bool:
        """Whether the signature over the message is this key's."""
        return crypto.verify(self.key_type, self.data, signature, message)


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """An Ed25519 private key: 32 (random) bytes. Raises ``InputError`` for another size."""

    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != _SEED_SIZE:
            raise InputError(f"an Ed25519 seed has {_SEED_SIZE} bytes, not {len(self.seed)}")

    def encode(self, crypto: Crypto) -> bytes:
        """libp2p's ``PrivateKey`` protobuf, as identity files hold it (seed, then public key)."""
        return _KeyMessage(ED25519, self.seed + crypto.ed25519_public(self.seed)).encode()

    @classmethod
    def decode(cls, data: bytes, crypto: Crypto) -> PrivateKey:
        """From an identity file's bytes. Raises ``InputError`` for other key types and for damage."""
        try:
            message = _KeyMessage.decode(data)
        except ProtocolError as error:
            raise InputError(f"this is not a libp2p private key: {error}") from error
        if message.type != ED25519:
            raise InputError(f"private key type {message.type} is not supported; give an Ed25519 key")
        key = cls(message.data[:_SEED_SIZE])
        if message.data[_SEED_SIZE : 2 * _SEED_SIZE] != crypto.ed25519_public(key.seed):
            raise InputError("the private key is damaged: its public half does not belong to it")
        return key

    def public(self, crypto: Crypto) -> PublicKey:
        """The public half."""
        return PublicKey(ED25519, crypto.ed25519_public(self.seed))

    def sign(self, crypto: Crypto, message: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes."""
        return crypto.ed25519_sign(self.seed, message)


def peer_id(public: PublicKey) -> PeerId:
    """The id of the holder of a public key: the key itself if it is small, else its sha256."""
    data = public.encode()
    if len(data) <= _MAX_INLINE:
        return PeerId(_IDENTITY + bytes([len(data)]) + data)
    return PeerId(_SHA256 + hashlib.sha256(data).digest())

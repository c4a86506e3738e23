"""Noise XX with libp2p's identity payload: who is at the other end, and nobody in between.

Follows the Noise Protocol Framework rev. 34 (``Noise_XX_25519_ChaChaPoly_SHA256``) and the libp2p
noise spec. Every message has its length, 2 bytes big-endian, in front. Rule of the file: any doubt
about the other side's identity is a ``HandshakeError``, and keys come in as arguments.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import HandshakeError, KwaaiNetError, ProtocolError
from ..identity.keys import PrivateKey, PublicKey
from ..ports import Aead, Crypto, Exchange
from ..wire import protobuf

PROTOCOL = "/noise"
MAX_MESSAGE = 65535  # what the length field can say
MAX_PLAINTEXT = MAX_MESSAGE - 16  # less the tag
MAX_HANDSHAKE_MESSAGE = 8192  # an RSA-8192 identity takes about 2,200 bytes

_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"
_SIGNED_PREFIX = b"noise-libp2p-static-key:"
_KEY = 32
_TAG = 16
_MAX_NONCE = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class _Payload(protobuf.Message):
    """``NoiseHandshakePayload``; extensions (early muxer choice) are not used."""

    identity_key: bytes | None = protobuf.optional(1, protobuf.BYTES)
    identity_sig: bytes | None = protobuf.optional(2, protobuf.BYTES)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A static noise key and the signed statement that it is our identity's."""

    static: Exchange
    payload: bytes

    @classmethod
    def create(cls, crypto: Crypto, identity: PrivateKey, static_private: bytes) -> Credentials:
        """From 32 random bytes; one per process is enough."""
        static = crypto.x25519(static_private)
        signature = identity.sign(crypto, _SIGNED_PREFIX + static.public)
        payload = _Payload(identity.public(crypto).encode(), signature).encode()
        return cls(static, payload)


@dataclass(frozen=True, slots=True)
class Secured:
    """What a handshake ends in: who the peer is, and a cipher for each direction."""

    public_key: PublicKey
    sender: Sender
    receiver: Receiver


class Sender:
    """Encrypts messages under one key, counting the nonce."""

    def __init__(self, aead: Aead) -> None:
        self._encrypt = aead.encrypt
        self._nonce = 0

    def encrypt(self, plaintext: bytes) -> tuple[bytes, bytes]:
        """(length prefix, ciphertext) of at most ``MAX_PLAINTEXT`` bytes."""
        ciphertext = self._encrypt(_nonce(self._nonce), plaintext, None)
        self._nonce += 1
        return len(ciphertext).to_bytes(2, "big"), ciphertext


class Receiver:
    """Cuts a byte stream into messages and decrypts them."""

    def __init__(self, aead: Aead) -> None:
        self._decrypt = aead.decrypt
        self._nonce = 0
        self._partial = bytearray()  # one message, cut off by the end of the data

    def receive_data(self, data: bytes | memoryview) -> Iterator[bytes]:
        """The plaintexts that ``data`` completes; consume all. Raises ``ProtocolError`` if forged.

        ``data`` is not kept: it may be a view of a buffer that is reused.
        """
        view = memoryview(data)
        offset = 0
        if len(self._partial) == 2 and len(view) >= (size := _length(self._partial)):
            self._partial.clear()  # only the length came before, as js-libp2p sends it
            offset = size
            yield self._open(view[:size])
        while self._partial and offset < len(view):
            offset += self._fill(view[offset:])
            if len(self._partial) >= 2 and len(self._partial) == 2 + _length(self._partial):
                message = bytes(self._partial[2:])
                self._partial.clear()
                yield self._open(message)
        while len(view) - offset >= 2:
            end = offset + 2 + (view[offset] << 8 | view[offset + 1])
            if end > len(view):
                break
            yield self._open(view[offset + 2 : end])
            offset = end
        self._partial += view[offset:]

    def _fill(self, view: memoryview) -> int:
        """Move from the view what the partial message lacks; returns how much."""
        wanted = 2 if len(self._partial) < 2 else 2 + _length(self._partial)
        taken = min(wanted - len(self._partial), len(view))
        self._partial += view[:taken]
        return taken

    def _open(self, message: bytes | memoryview) -> bytes:
        try:
            plaintext = self._decrypt(_nonce(self._nonce), message, None)  # type: ignore[arg-type]
        except Exception as error:  # the port: any exception means forged
            raise ProtocolError("a noise message is forged or out of order; the connection ends") from error
        self._nonce += 1
        return plaintext


class _Symmetric:
    """Noise's SymmetricState."""

    def __init__(self, crypto: Crypto, prologue: bytes) -> None:
        self._crypto = crypto
        self._hash = self._chaining_key = _NAME  # exactly 32 bytes, so it is its own hash
        self._key: bytes | None = None
        self._nonce = 0
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        self._hash = hashlib.sha256(self._hash + data).digest()

    def mix_key(self, own: Exchange, public: bytes) -> None:
        try:
            shared = own.shared(public)
        except Exception as error:  # a low-order point
            raise HandshakeError(f"noise key {public.hex()} of the peer is not usable") from error
        self._chaining_key, self._key = _hkdf(self._chaining_key, shared)
        self._nonce = 0

    def encrypt(self, plaintext: bytes) -> bytes:
        if self._key is None:
            self.mix_hash(plaintext)
            return plaintext
        aead = self._crypto.chacha20poly1305(self._key)
        ciphertext = aead.encrypt(_nonce(self._nonce), plaintext, self._hash)
        self._nonce += 1
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt(self, ciphertext: bytes) -> bytes:
        if self._key is None:
            self.mix_hash(ciphertext)
            return ciphertext
        try:
            aead = self._crypto.chacha20poly1305(self._key)
            plaintext = aead.decrypt(_nonce(self._nonce), ciphertext, self._hash)
        except Exception as error:  # the port: any exception means forged
            raise HandshakeError("a noise handshake message is forged or damaged") from error
        self._nonce += 1
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """(key of the initiator's messages, key of the responder's)."""
        return _hkdf(self._chaining_key, b"")


class Handshake:
    """One side of the three messages of XX; ``ephemeral`` is 32 fresh random bytes."""

    def __init__(
        self,
        crypto: Crypto,
        credentials: Credentials,
        ephemeral: bytes,
        *,
        initiator: bool,
        prologue: bytes = b"",
    ) -> None:
        self._crypto = crypto
        self._credentials = credentials
        self._ephemeral = crypto.x25519(ephemeral)
        self._initiator = initiator
        self._state = _Symmetric(crypto, prologue)
        self._remote_ephemeral = b""
        self._in = bytearray()
        self._out = bytearray()
        self._turn = 0  # messages received
        self.result: Secured | None = None
        if initiator:
            self._state.mix_hash(self._ephemeral.public)
            self._send(self._ephemeral.public + self._state.encrypt(b""))

    def receive_data(self, data: bytes | memoryview) -> None:
        """Feed bytes until ``result`` is set. Raises ``HandshakeError``."""
        self._in += data
        while self.result is None and len(self._in) >= 2:
            size = _length(self._in)
            if size > MAX_HANDSHAKE_MESSAGE:
                raise HandshakeError(f"a handshake message of {size} bytes is over {MAX_HANDSHAKE_MESSAGE}")
            if len(self._in) < 2 + size:
                return
            message = bytes(self._in[2 : 2 + size])
            del self._in[: 2 + size]
            self._receive(message)

    def data_to_send(self) -> bytes:
        """Bytes to send now (may be empty)."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def take_rest(self) -> bytes:
        """Bytes received behind the handshake: already encrypted."""
        rest = bytes(self._in)
        self._in.clear()
        return rest

    def _receive(self, message: bytes) -> None:
        self._turn += 1
        if self._initiator:
            self._receive_second(message)
        elif self._turn == 1:
            self._receive_first(message)
        else:
            self._finish(*self._read_identity(message))

    def _receive_first(self, message: bytes) -> None:
        """-> e; answered by <- e, ee, s, es."""
        state, own = self._state, self._credentials
        self._remote_ephemeral, payload = _cut(message, _KEY)
        state.mix_hash(self._remote_ephemeral)
        state.decrypt(payload)
        state.mix_hash(self._ephemeral.public)
        state.mix_key(self._ephemeral, self._remote_ephemeral)
        static = state.encrypt(own.static.public)
        state.mix_key(own.static, self._remote_ephemeral)
        self._send(self._ephemeral.public + static + state.encrypt(own.payload))

    def _receive_second(self, message: bytes) -> None:
        """<- e, ee, s, es; answered by -> s, se."""
        state, own = self._state, self._credentials
        self._remote_ephemeral, rest = _cut(message, _KEY)
        state.mix_hash(self._remote_ephemeral)
        state.mix_key(self._ephemeral, self._remote_ephemeral)
        static, payload = self._read_identity(rest)
        encrypted = state.encrypt(own.static.public)
        state.mix_key(own.static, self._remote_ephemeral)
        self._send(encrypted + state.encrypt(own.payload))
        self._finish(static, payload)

    def _read_identity(self, data: bytes) -> tuple[bytes, bytes]:
        """Tokens s and es (or se, from the other side): (the peer's static key, its payload)."""
        encrypted, payload = _cut(data, _KEY + _TAG)
        static = self._state.decrypt(encrypted)
        self._state.mix_key(self._ephemeral, static)
        return static, self._state.decrypt(payload)

    def _finish(self, static: bytes, payload: bytes) -> None:
        public_key = self._verified(static, payload)
        keys = self._state.split()
        first, second = (self._crypto.chacha20poly1305(key) for key in keys)
        sending, receiving = (first, second) if self._initiator else (second, first)
        self.result = Secured(public_key, Sender(sending), Receiver(receiving))

    def _verified(self, static: bytes, payload: bytes) -> PublicKey:
        try:
            message = _Payload.decode(payload)
            public_key = PublicKey.decode(message.identity_key or b"")
        except KwaaiNetError as error:
            raise HandshakeError(f"the peer's noise payload is malformed: {error}") from error
        if not public_key.verify(self._crypto, message.identity_sig or b"", _SIGNED_PREFIX + static):
            raise HandshakeError("the peer's signature over its noise key is wrong; it is not who it says")
        return public_key

    def _send(self, message: bytes) -> None:
        self._out += len(message).to_bytes(2, "big") + message


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    secret = hmac.digest(chaining_key, material, "sha256")
    first = hmac.digest(secret, b"\x01", "sha256")
    return first, hmac.digest(secret, first + b"\x02", "sha256")


def _nonce(counter: int) -> bytes:
    if counter >= _MAX_NONCE:
        raise ProtocolError("a noise connection has used up its nonces")
    return b"\0\0\0\0" + counter.to_bytes(8, "little")


def _length(data: bytearray) -> int:
    return data[0] << 8 | data[1]


def _cut(data: bytes, size: int) -> tuple[bytes, bytes]:
    if len(data) < size:
        raise HandshakeError(f"a noise handshake message is cut short ({len(data)} of {size} bytes)")
    return data[:size], data[size:]

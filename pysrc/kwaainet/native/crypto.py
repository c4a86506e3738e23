"""``ports.Crypto`` over the ``cryptography`` package.

Rule of the file: keys arrive as libp2p writes them and nothing foreign raises out of ``verify``.
"""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ..identity.keys import ECDSA, ED25519, RSA, SECP256K1
from ..ports import Aead, Exchange

MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192  # go-libp2p's limits

_RAW = serialization.Encoding.Raw, serialization.PublicFormat.Raw


class NativeCrypto:
    """Stateless; one instance serves a process."""

    def ed25519_public(self, seed: bytes) -> bytes:
        """The 32-byte public key of a 32-byte seed."""
        return _signer(seed)[1]

    def ed25519_sign(self, seed: bytes, message: bytes) -> bytes:
        """A 64-byte signature."""
        return _signer(seed)[0].sign(message)

    def verify(self, key_type: int, key: bytes, signature: bytes, message: bytes) -> bool:
        """Whether the signature is that key's; ``False`` too for a key that is no key."""
        verify = _VERIFIERS.get(key_type)
        if verify is None:
            return False
        try:
            verify(key, signature, message)
        except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
            return False
        return True

    def x25519(self, private: bytes) -> Exchange:
        """The key of 32 private bytes."""
        return _X25519(private)

    def chacha20poly1305(self, key: bytes) -> Aead:
        """The cipher under a 32-byte key."""
        return ChaCha20Poly1305(key)


class _X25519:
    """Reading a key costs as much as using it, and a handshake uses each twice."""

    def __init__(self, private: bytes) -> None:
        self._key = x25519.X25519PrivateKey.from_private_bytes(private)
        self.public = self._key.public_key().public_bytes(*_RAW)

    def shared(self, public: bytes) -> bytes:
        """See ``Exchange``."""
        return self._key.exchange(x25519.X25519PublicKey.from_public_bytes(public))


@lru_cache(maxsize=4)  # a process has one identity or two, which it keeps
def _signer(seed: bytes) -> tuple[ed25519.Ed25519PrivateKey, bytes]:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    return key, key.public_key().public_bytes(*_RAW)


def _verify_rsa(key: bytes, signature: bytes, message: bytes) -> None:
    public = serialization.load_der_public_key(key)
    if not isinstance(public, rsa.RSAPublicKey) or not MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS:
        raise ValueError(f"not an RSA key of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    public.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())


def _verify_ed25519(key: bytes, signature: bytes, message: bytes) -> None:
    ed25519.Ed25519PublicKey.from_public_bytes(key).verify(signature, message)


def _verify_secp256k1(key: bytes, signature: bytes, message: bytes) -> None:
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), key)
    public.verify(signature, message, ec.ECDSA(hashes.SHA256()))


def _verify_ecdsa(key: bytes, signature: bytes, message: bytes) -> None:
    public = serialization.load_der_public_key(key)
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise ValueError("not an ECDSA key")
    public.verify(signature, message, ec.ECDSA(hashes.SHA256()))


_VERIFIERS = {
    RSA: _verify_rsa,
    ED25519: _verify_ed25519,
    SECP256K1: _verify_secp256k1,
    ECDSA: _verify_ecdsa,
}

"""``ports.Crypto`` natively, against the vectors of the RFCs."""

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.identity.keys import ECDSA, ED25519, RSA, SECP256K1
from kwaainet.native.crypto import NativeCrypto

CRYPTO = NativeCrypto()
DER = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo


def test_ed25519_of_rfc_8032():
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    signature = bytes.fromhex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert CRYPTO.ed25519_public(seed) == public
    assert CRYPTO.ed25519_sign(seed, b"") == signature
    assert CRYPTO.verify(ED25519, public, signature, b"")
    assert not CRYPTO.verify(ED25519, public, signature, b"x")


def test_x25519_of_rfc_7748():
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob_public = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert CRYPTO.x25519(alice).public.hex() == (
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    )
    assert CRYPTO.x25519(alice).shared(bob_public).hex() == shared


def test_x25519_refuses_a_low_order_point():
    with pytest.raises(ValueError):  # noqa: PT011
        CRYPTO.x25519(b"k" * 32).shared(bytes(32))


def test_chacha20poly1305_of_rfc_8439():
    key = bytes(range(0x80, 0xA0))
    nonce = bytes.fromhex("070000004041424344454647")
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    data = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    sealed = CRYPTO.chacha20poly1305(key).encrypt(nonce, text, data)
    assert sealed[:16].hex() == "d31a8d34648e60db7b86afbc53ef7ec2"
    assert sealed[-16:].hex() == "1ae10b594f09e26a7e902ecbd0600691"
    assert CRYPTO.chacha20poly1305(key).decrypt(nonce, sealed, data) == text


def test_rsa_signatures_and_key_sizes():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(*DER)
    signature = key.sign(b"message", padding.PKCS1v15(), hashes.SHA256())
    assert CRYPTO.verify(RSA, public, signature, b"message")
    assert not CRYPTO.verify(RSA, public, signature, b"massage")
    assert not CRYPTO.verify(ECDSA, public, signature, b"message"), "the type must fit the key"
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    signature = small.sign(b"message", padding.PKCS1v15(), hashes.SHA256())
    assert not CRYPTO.verify(RSA, small.public_key().public_bytes(*DER), signature, b"message")


@pytest.mark.parametrize("key_type", [SECP256K1, ECDSA])
def test_signatures_on_curves(key_type):
    key = ec.generate_private_key(ec.SECP256K1() if key_type == SECP256K1 else ec.SECP256R1())
    form = DER
    if key_type == SECP256K1:
        form = serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    public = key.public_key().public_bytes(*form)
    signature = key.sign(b"message", ec.ECDSA(hashes.SHA256()))
    assert CRYPTO.verify(key_type, public, signature, b"message")
    assert not CRYPTO.verify(key_type, public, signature, b"massage")


@given(st.integers(0, 9), st.binary(max_size=100), st.binary(max_size=100))
def test_what_is_no_key_verifies_nothing(key_type, key, signature):
    assert not CRYPTO.verify(key_type, key, signature, b"message")

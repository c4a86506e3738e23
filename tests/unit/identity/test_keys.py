"""Keys and peer ids, against ids that go-libp2p and the peer-ids spec give."""

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import InputError, KwaaiNetError, ProtocolError
from kwaainet.identity.keys import ED25519, RSA, PrivateKey, PublicKey, peer_id
from kwaainet.native.crypto import NativeCrypto

CRYPTO = NativeCrypto()
SEED = bytes([7]) * 32

# the Ed25519 test vector of the peer-ids spec: private key protobuf, public key protobuf
SPEC_PRIVATE = bytes.fromhex(
    "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
    "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
)
SPEC_PUBLIC = bytes.fromhex("080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e")


def test_the_specs_key_pair_decodes_and_encodes_to_itself():
    key = PrivateKey.decode(SPEC_PRIVATE, CRYPTO)
    assert key.encode(CRYPTO) == SPEC_PRIVATE
    assert key.public(CRYPTO).encode() == SPEC_PUBLIC


def test_peer_id_of_a_known_seed_is_that_of_go_libp2p():
    key = PrivateKey(SEED)
    assert str(peer_id(key.public(CRYPTO))) == "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7"


def test_small_keys_are_the_id_and_large_ones_are_hashed():
    small, large = PublicKey(ED25519, bytes(32)), PublicKey(RSA, bytes(294))
    assert peer_id(small).data == b"\x00\x24" + small.encode()
    assert peer_id(large).data == b"\x12\x20" + hashlib.sha256(large.encode()).digest()
    assert str(peer_id(large)).startswith("Qm")


def test_signatures_verify_and_others_do_not():
    key = PrivateKey(SEED)
    signature = key.sign(CRYPTO, b"message")
    public = key.public(CRYPTO)
    assert public.verify(CRYPTO, signature, b"message")
    assert not public.verify(CRYPTO, signature, b"massage")
    assert not PrivateKey(bytes(32)).public(CRYPTO).verify(CRYPTO, signature, b"message")


def test_the_seed_is_not_printed():
    assert SEED.hex() not in repr(PrivateKey(SEED))
    assert "\\x07" not in repr(PrivateKey(SEED))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a libp2p private key"),
        (b"\xff" * 8, "not a libp2p private key"),
        (b"\x08\x00\x12\x02ab", "type 0 is not supported"),
        (b"\x08\x01\x12\x02ab", "32 bytes, not 2"),
        (SPEC_PRIVATE[:-1] + b"\0", "damaged"),
    ],
)
def test_what_is_no_identity_is_refused(data, said):
    with pytest.raises(InputError, match=said):
        PrivateKey.decode(data, CRYPTO)


def test_a_seed_of_another_size_is_refused():
    with pytest.raises(InputError, match="not 31"):
        PrivateKey(bytes(31))


def test_an_oversize_or_unknown_public_key_is_refused():
    with pytest.raises(ProtocolError, match="over the 2048"):
        PublicKey.decode(PublicKey(RSA, bytes(3000)).encode())
    with pytest.raises(ProtocolError, match="type 9"):
        PublicKey.decode(b"\x08\x09\x12\x00")


@given(st.integers(0, 3), st.binary(max_size=300))
def test_public_keys_survive_a_round_trip(key_type, data):
    key = PublicKey(key_type, data)
    assert PublicKey.decode(key.encode()) == key


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_foreign(data):
    for decode in (PublicKey.decode, lambda d: PrivateKey.decode(d, CRYPTO)):
        with contextlib.suppress(KwaaiNetError):
            decode(data)

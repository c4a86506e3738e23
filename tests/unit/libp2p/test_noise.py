"""The noise handshake between our two sides, with every way to lie in it."""

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaainet.errors import HandshakeError, KwaaiNetError, ProtocolError
from kwaainet.identity.keys import ECDSA, RSA, SECP256K1, PrivateKey, PublicKey, peer_id
from kwaainet.libp2p import noise
from kwaainet.native.crypto import NativeCrypto

CRYPTO = NativeCrypto()
ALICE, BOB = PrivateKey(b"a" * 32), PrivateKey(b"b" * 32)
DER = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo

# sha256 of the three messages for the keys below, as the noiseprotocol package computes them
GOLDEN = "43e5e9029f3831c6a23ae8da6d56528f4a26d07da7b66573384c389a6c08a57a"
GOLDEN_HELLO = "00153f1b40103fd1dadfb8dce0c529f1df5aefecc11060"


def side(identity, *, initiator, credentials=None):
    name = b"i" if initiator else b"r"
    credentials = credentials or noise.Credentials.create(CRYPTO, identity, name * 32)
    return noise.Handshake(CRYPTO, credentials, name.upper() * 32, initiator=initiator)


def shake(one, other):
    """Run the handshake; returns the messages."""
    sent = []
    while data := one.data_to_send():
        sent.append(data)
        other.receive_data(data)
        one, other = other, one
    return sent


def secured():
    initiator, responder = side(ALICE, initiator=True), side(BOB, initiator=False)
    shake(initiator, responder)
    return initiator.result, responder.result


def test_both_sides_learn_who_the_other_is():
    one, other = secured()
    assert one.public_key == BOB.public(CRYPTO)
    assert other.public_key == ALICE.public(CRYPTO)


def test_the_transcript_is_that_of_another_implementation():
    sent = shake(side(ALICE, initiator=True), side(BOB, initiator=False))
    assert [len(message) for message in sent] == [34, 202, 170]
    assert hashlib.sha256(b"".join(sent)).hexdigest() == GOLDEN
    assert b"".join(secured()[0].sender.encrypt(b"hello")).hex() == GOLDEN_HELLO


def test_any_cut_gives_the_same():
    initiator, responder = side(ALICE, initiator=True), side(BOB, initiator=False)
    one, other = initiator, responder
    while data := one.data_to_send():
        for byte in data:
            other.receive_data(bytes([byte]))
        one, other = other, one
    assert initiator.result is not None
    assert responder.result is not None


def test_messages_pass_both_ways_in_order_and_large():
    one, other = secured()
    for sender, receiver in ((one.sender, other.receiver), (other.sender, one.receiver)):
        messages = [b"", b"hello", bytes(noise.MAX_PLAINTEXT)]
        stream = b"".join(b"".join(sender.encrypt(message)) for message in messages)
        assert list(receiver.receive_data(stream)) == messages


@given(st.lists(st.binary(max_size=200), max_size=6), st.integers(1, 40))
@settings(max_examples=50)
def test_encrypted_messages_survive_any_cut(messages, size):
    one, other = secured()
    stream = b"".join(b"".join(one.sender.encrypt(message)) for message in messages)
    found = []
    for start in range(0, len(stream), size):
        found += other.receiver.receive_data(memoryview(stream)[start : start + size])
    assert found == messages


@pytest.mark.parametrize("place", [0, 2, 20])
def test_a_flipped_bit_ends_the_connection(place):
    one, other = secured()
    stream = bytearray(b"".join(one.sender.encrypt(b"hello")))
    stream[place] ^= 1
    with pytest.raises(ProtocolError, match="forged"):
        list(other.receiver.receive_data(bytes(stream) + bytes(300)))


def test_a_repeated_message_ends_the_connection():
    one, other = secured()
    stream = b"".join(one.sender.encrypt(b"hello"))
    assert list(other.receiver.receive_data(stream)) == [b"hello"]
    with pytest.raises(ProtocolError, match="forged"):
        list(other.receiver.receive_data(stream))


def test_a_flipped_bit_in_any_handshake_message_is_noticed():
    for message in range(3):
        initiator, responder = side(ALICE, initiator=True), side(BOB, initiator=False)
        one, other = initiator, responder
        for _ in range(message):
            other.receive_data(one.data_to_send())
            one, other = other, one
        data = bytearray(one.data_to_send())
        data[-1] ^= 1
        with pytest.raises(HandshakeError):
            deliver(one, other, bytes(data))


def deliver(one, other, data):
    """A changed first message shows only when the second one comes back."""
    other.receive_data(data)
    one.receive_data(other.data_to_send())


def test_a_stolen_identity_is_noticed():
    """Mallory presents Alice's key, but cannot sign for her."""
    honest = noise.Credentials.create(CRYPTO, ALICE, b"x" * 32)
    mine = noise.Credentials.create(CRYPTO, BOB, b"y" * 32)
    stolen = noise.Credentials(mine.static, honest.payload)
    with pytest.raises(HandshakeError, match="not who it says"):
        shake(side(BOB, initiator=True, credentials=stolen), side(BOB, initiator=False))


@pytest.mark.parametrize("payload", [b"", b"\x0a\x00", b"\xff\xff", b"\x0a\x03\x08\x07\x12"])
def test_a_payload_without_an_identity_is_refused(payload):
    mine = noise.Credentials.create(CRYPTO, BOB, b"y" * 32)
    empty = noise.Credentials(mine.static, payload)
    with pytest.raises(HandshakeError, match=r"payload|who it says"):
        shake(side(BOB, initiator=True, credentials=empty), side(BOB, initiator=False))


def foreign(key_type):
    """(public key, sign function) of a key type that is not our own."""
    if key_type == RSA:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        sign = lambda m: key.sign(m, padding.PKCS1v15(), hashes.SHA256())  # noqa: E731
        return PublicKey(RSA, key.public_key().public_bytes(*DER)), sign
    curve = ec.generate_private_key(ec.SECP256K1() if key_type == SECP256K1 else ec.SECP256R1())
    sign = lambda m: curve.sign(m, ec.ECDSA(hashes.SHA256()))  # noqa: E731
    if key_type == ECDSA:
        return PublicKey(ECDSA, curve.public_key().public_bytes(*DER)), sign
    point = serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    return PublicKey(SECP256K1, curve.public_key().public_bytes(*point)), sign


@pytest.mark.parametrize("key_type", [RSA, SECP256K1, ECDSA])
def test_identities_of_other_types_are_verified(key_type):
    public, sign = foreign(key_type)
    static = CRYPTO.x25519(b"z" * 32)
    payload = noise._Payload(public.encode(), sign(b"noise-libp2p-static-key:" + static.public)).encode()
    theirs = noise.Credentials(static, payload)
    responder = side(BOB, initiator=False)
    shake(side(ALICE, initiator=True, credentials=theirs), responder)
    assert responder.result.public_key == public
    assert str(peer_id(public)).startswith("Qm" if key_type in (RSA, ECDSA) else "16Uiu2")


def test_a_low_order_point_is_refused():
    responder = side(BOB, initiator=False)
    with pytest.raises(HandshakeError, match="not usable"):
        responder.receive_data(b"\x00\x20" + bytes(32))


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"\x00\x05hello", "cut short"), (b"\x20\x01", "8193 bytes"), (b"\x00\x00", "cut short")],
)
def test_a_malformed_message_is_refused(data, said):
    with pytest.raises(HandshakeError, match=said):
        side(BOB, initiator=False).receive_data(data)


@given(st.binary(max_size=300))
@settings(max_examples=60)
def test_arbitrary_bytes_raise_nothing_foreign(data):
    for initiator in (True, False):
        machine = side(ALICE, initiator=initiator)
        for chunk in (len(data).to_bytes(2, "big") + data, data):
            try:
                machine.receive_data(chunk)
            except KwaaiNetError:
                break

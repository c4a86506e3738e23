"""Keys near a place."""

import hashlib
import random

import pytest

from kwaainet.identity import grinding
from kwaainet.identity.grinding import RELAYS_PLACE, near
from kwaainet.identity.keys import peer_id
from kwaainet.libp2p.kad import position, shared_bits
from kwaainet.native.crypto import NativeCrypto


@pytest.mark.parametrize("bits", [0, 1, 6])
def test_a_key_shares_the_bits_asked_for(bits: int) -> None:
    crypto = NativeCrypto()
    place = hashlib.sha256(b"anything").digest()
    key = near(place, bits, crypto, random.Random(bits).randbytes)
    found = position(peer_id(key.public(crypto)).data)
    assert shared_bits(found, int.from_bytes(place, "big")) >= bits


def test_bad_luck_ends_with_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grinding, "TRIES_PER_KEY", 1)
    crypto = NativeCrypto()
    tried: list[bytes] = []

    def same(size: int) -> bytes:
        tried.append(bytes(size))
        return tried[-1]

    near(RELAYS_PLACE, 4, crypto, same)
    assert 1 <= len(tried) <= 16

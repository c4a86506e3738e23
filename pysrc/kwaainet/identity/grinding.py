"""Keys whose peer ids stand near a given place of the kad key space.

A kad search for a peer asks the servers nearest to the sha256 of its id, so a peer that cannot be a server,
such as a tab, is found for certain only if the relay that it is behind is among those: it takes an id near
the relay's. Each bit doubles the keys to be tried. Rule of the file: random bytes come as an argument; what
is tried is bounded, and the best of what was tried is taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from ..ports import Crypto
from .keys import PrivateKey, peer_id

BITS = 256
TRIES_PER_KEY = (
    8  # of the mean: all of them fail once in 3,000 times, and then the best has a bit or two less
)
RELAYS_PLACE = hashlib.sha256(
    b"kwaainet relay"
).digest()  # where relays take theirs: near each other's tabs too
RELAY_BITS = 12  # 2.4 of 10,000 servers share as many


def near(place: bytes, bits: int, crypto: Crypto, random_bytes: Callable[[int], bytes]) -> PrivateKey:
    """A new key whose id's sha256 begins with the first ``bits`` bits of ``place`` (32 bytes)."""
    target, best, best_shared = int.from_bytes(place, "big"), None, -1
    for _ in range(TRIES_PER_KEY << bits):
        key = PrivateKey(random_bytes(32))
        found = hashlib.sha256(peer_id(key.public(crypto)).data).digest()
        shared = BITS - (int.from_bytes(found, "big") ^ target).bit_length()
        if shared > best_shared:
            best, best_shared = key, shared
        if shared >= bits:
            break
    assert best is not None
    return best

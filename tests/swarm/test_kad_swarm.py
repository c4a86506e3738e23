"""Tabs behind relays are found by their ids in swarms of any size: what it takes, measured.

Shares of lookups that met the tab within 10 s: 200 lookups each among 100 and 1,000 servers (``python
tests/swarm/test_kad_swarm.py``), 100 among 10,000. "Before" is a relay that knows only whom it is connected
to, and tabs of random ids. Servers live an hour on the average; 2 % of queries are lost, which is what is
left of the failures, as the relay is asked once.

    servers                                                100     1,000    10,000
    before                                               25.0 %    0.0 %     0.0 %
    the relay settles among its neighbours               25.0 %    1.0 %     0.0 %
    two relays that settle, and hold the tab             52.0 %    2.0 %     0.0 %
    one relay, and tabs take ids near it                 97.5 %   96.0 %    98.0 %
    two relays anywhere, that of the tab's id lost        0.0 %    0.0 %     0.0 %
    two relays at the relays' place, the tab's lost      96.5 %  100.0 %    94.0 %

So several relays alone find nobody: a tab's id is ground near its first relay's (``near_bits`` of
``/kwaainet.json``), and the relays' near one place (``identity.grinding``), from where each reaches the tabs
of another. Searches take 0.4 to 0.5 s. 10,000 servers: ``tests/nightly/test_kad_swarm.py``.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import pytest
from swarm.kad_swarm import BITS, REFRESH, Found, KadSwarm, SimulatedRelay

from kwaainet.identity.grinding import RELAY_BITS, RELAYS_PLACE
from kwaainet.types import PeerId

UNTIL = 3600.0  # s
CONTACTS = 64  # servers a relay is connected to anyhow
FIRST = 1800.0  # s: when lookups begin, so that tables have been refreshed and are stale again
PLACE = int.from_bytes(RELAYS_PLACE, "big")


@dataclass(frozen=True)
class Way:
    """What is done to be found."""

    settles: bool = True  # the relay looks for its neighbours
    grinds: bool = True  # tabs take ids near their relay's
    relays: int = 1  # that hold the tab, or share that another does
    placed: bool = False  # the relays' own ids are at the relays' place
    lost: bool = False  # the first relay, near which the tab is, has died


WAYS = {
    "before": Way(settles=False, grinds=False),
    "settled": Way(grinds=False),
    "settled, tabs near": Way(),
    "two relays anywhere, tabs anywhere": Way(grinds=False, relays=2),
    "two relays at their place": Way(relays=2, placed=True),
    "two relays anywhere, the tab's first lost": Way(relays=2, lost=True),
    "two relays at their place, the tab's first lost": Way(relays=2, placed=True, lost=True),
}


def near(chance: random.Random, place: int, bits: int) -> int:
    """A position that begins as ``place`` does."""
    rest = BITS - bits
    return place >> rest << rest | chance.getrandbits(rest)


def peer_at(chance: random.Random, place: int | None) -> PeerId:
    """A relay's id, ground to its place if there is one."""
    while True:
        peer = PeerId(b"\x12\x20" + chance.randbytes(32))
        found = int.from_bytes(hashlib.sha256(peer.data).digest(), "big")
        if place is None or (found ^ place) >> (BITS - RELAY_BITS) == 0:
            return peer


def lookups(size: int, way: Way, count: int, seed: int = 1) -> Iterator[Found]:
    """Outcomes of lookups of new tabs, each at another time."""
    swarm = KadSwarm(size, UNTIL, seed)
    chance = random.Random(seed + 1)
    died = [FIRST if way.lost and n == 0 else float("inf") for n in range(way.relays)]
    relays = [SimulatedRelay(swarm, peer_at(chance, PLACE if way.placed else None), at) for at in died]
    for relay in relays:
        relay.connect({swarm.anybody(0.0) for _ in range(min(CONTACTS, size))}, 0.0)
        for at in range(1, int(UNTIL), int(REFRESH)) if way.settles else ():
            relay.settle(float(at))
    for _ in range(count):
        bits = relays[0].near_bits() if way.grinds else 0
        tab = near(chance, relays[0].position, bits) if way.grinds else chance.getrandbits(BITS)
        for relay in relays:
            relay.tabs.add(tab)
        yield swarm.search(tab, chance.uniform(FIRST + 1.0, UNTIL))


def share(found: list[Found]) -> float:
    return sum(one.found for one in found) / len(found)


@pytest.mark.parametrize("size", [100, 1000])
def test_tabs_near_their_relay_are_found_though_servers_come_and_go(size: int) -> None:
    assert share(list(lookups(size, WAYS["settled, tabs near"], 40))) >= 0.95


def test_they_would_not_be_without_it() -> None:
    assert share(list(lookups(1000, WAYS["before"], 40))) < 0.5


def test_another_relay_at_the_same_place_finds_them_when_theirs_is_lost() -> None:
    assert share(list(lookups(1000, WAYS["two relays at their place, the tab's first lost"], 40))) >= 0.95


def rows(sizes: list[int], count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for size in sizes:
        for name, way in WAYS.items():
            found = list(lookups(size, way, count))
            met = [one.seconds for one in found if one.found] or [float("nan")]
            yield name, {"size": size, "share": share(found), "median_s": median(met)}


if __name__ == "__main__":
    for name, row in rows([int(text) for text in sys.argv[1:]] or [100, 1000], 200):
        print(f"{row['size']:6} {name:50} {row['share']:6.1%} {row['median_s']:6.2f} s", flush=True)

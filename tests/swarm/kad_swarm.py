"""A swarm of kad servers in virtual time, as p2pd's are, with one relay of ours and the tabs behind it.

The servers are a model of go-libp2p-kad-dht v0.25.1 with its defaults, which are p2pd's: buckets of 20 by
shared bits, refreshed every 10 minutes and never rid of the living, 10 queries at once, an end when the 3
nearest have answered and then all of the 20 nearest asked. Servers live for an hour on the average, so that
tables name some that are gone; a query to a dead one takes 5 s, and one in fifty is lost. The relay's own
part is the code that runs: ``kad.Closest`` and ``kad.near_bits``.

Rule of the file: a server's table is worked out when it is asked, from who lived at its last refresh, so that
10,000 servers cost what the hundreds cost that are met; the same seed gives the same run.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from kwaainet.libp2p import kad
from kwaainet.libp2p.kad import Closest, PeerRecord
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.types import PeerId

BITS, K, ALPHA, BETA = kad.BITS, 20, 10, 3
REFRESH = 600.0  # s
LIFETIME = 3600.0  # s, the mean
ROUND_TRIP = 0.05  # s, the mean
DIAL = 0.15  # s more for who is not connected
LOST, DEAD_TIMEOUT = 0.02, 5.0  # share of queries without an answer; s until one is given up
PATIENCE = 10.0  # s in which a client's call must have found its peer
SAMPLE = 3 * K  # of a range of servers looked at for a bucket
SOME = (Multiaddr.parse("/ip4/10.0.0.1/tcp/1"),)


@dataclass(frozen=True, slots=True)
class Found:
    """How a search ended: whether it met the peer in time, when, and how many were asked."""

    found: bool
    seconds: float
    asked: int


class KadSwarm:
    """``size`` servers at any time, from 0 to ``until`` seconds."""

    def __init__(self, size: int, until: float, seed: int) -> None:
        self.random = random.Random(seed)
        self.size = size
        lives: list[tuple[int, float, float, PeerId]] = []
        for _ in range(size):
            at = -self.random.expovariate(1 / LIFETIME)
            while at < until:
                died = max(at, 0.0) + self.random.expovariate(1 / LIFETIME)
                peer = PeerId(b"\x12\x20" + self.random.randbytes(32))
                lives.append((kad.position(peer.data), at, died, peer))
                at = died
        lives.sort()
        self.ids = [life[0] for life in lives]
        self.born = [life[1] for life in lives]
        self.died = [life[2] for life in lives]
        self.peers = [life[3] for life in lives]
        self.index = {peer: n for n, peer in enumerate(self.peers)}
        self.relays: list[SimulatedRelay] = []
        self._table = lru_cache(maxsize=4096)(self._table_at)

    def alive(self, n: int, at: float) -> bool:
        return self.born[n] <= at < self.died[n]

    def anybody(self, at: float) -> int:
        """A living server."""
        while not self.alive(n := self.random.randrange(len(self.ids)), at):
            pass
        return n

    def table(self, n: int, at: float) -> list[int]:
        """Whom server n had in its table when it was last refreshed."""
        offset = (self.ids[n] >> 13) % 600
        return self._table(n, max(self.born[n], (at - offset) // REFRESH * REFRESH + offset, 0.0))

    def bucket(self, n: int, shared: int, at: float) -> list[int]:
        """Up to ``K`` of those that share just so many bits with n, and lived then."""
        shift = BITS - shared - 1
        low = (self.ids[n] >> shift ^ 1) << shift
        start, end = bisect_left(self.ids, low), bisect_left(self.ids, low + (1 << shift))
        if end - start <= SAMPLE:
            return [one for one in range(start, end) if self.alive(one, at)][:K]
        chance = random.Random(self.ids[n] ^ shared)
        found = (one for one in chance.sample(range(start, end), SAMPLE) if self.alive(one, at))
        return [one for _, one in zip(range(K), found, strict=False)]

    def _table_at(self, n: int, at: float) -> list[int]:
        table: list[int] = []
        for shared in range(BITS):
            shift = BITS - shared
            low = self.ids[n] >> shift << shift
            if bisect_left(self.ids, low + (1 << shift)) - bisect_left(self.ids, low) <= 1:
                break
            table += self.bucket(n, shared, at)
        return table

    def knows(self, n: int, relay: SimulatedRelay, at: float) -> bool:
        """Whether the relay is in n's table: they were connected, and there was room in its bucket."""
        if not relay.was_met(n, at):
            return False
        return len(self.bucket(n, kad.shared_bits(self.ids[n], relay.position), at)) < K

    def nearest(self, n: int, target: int, at: float) -> list[tuple[int, int | SimulatedRelay]]:
        """What server n answers: (distance, who)."""
        rows: list[tuple[int, int | SimulatedRelay]] = [
            (self.ids[one] ^ target, one) for one in self.table(n, at)
        ]
        rows += [(relay.position ^ target, relay) for relay in self.relays if self.knows(n, relay, at)]
        return heapq.nsmallest(K, rows, key=lambda row: row[0])

    def delay(self, at: float, who: int | SimulatedRelay) -> tuple[float, bool]:
        """Until a query to ``who`` ends, and whether in an answer."""
        lives = self.alive(who, at) if isinstance(who, int) else who.lives(at)
        if not lives or self.random.random() < LOST:
            return DEAD_TIMEOUT, False
        return DIAL + ROUND_TRIP * self.random.uniform(0.5, 2.0), True

    def search(self, target: int, at: float) -> Found:
        """A stock peer looks for the peer at ``target``, as ``FindPeer`` does."""
        return _Search(self, target, at).run()


class SimulatedRelay:
    """Our relay: holds ``tabs`` (positions) while it lives; knows whom it is connected to."""

    def __init__(self, swarm: KadSwarm, peer: PeerId, died: float = float("inf")) -> None:
        self.swarm, self.peer, self.position, self._died = swarm, peer, kad.position(peer.data), died
        self.tabs: set[int] = set()
        self._met: list[tuple[float, frozenset[int]]] = []
        self.near: list[int] = []
        swarm.relays.append(self)

    def lives(self, at: float) -> bool:
        return at < self._died

    def was_met(self, n: int, at: float) -> bool:
        return any(when <= at and n in met for when, met in self._met)

    def connect(self, servers: Iterable[int], at: float) -> None:
        """As a node of the DHT does anyhow, and with its first peers."""
        self.near = list(servers)
        self._met.append((at, frozenset(self.near)))

    def settle(self, at: float) -> None:
        """The search for our neighbours, in the code that runs."""
        swarm = self.swarm
        asked: set[int] = set()
        search = Closest(self.peer, [PeerRecord(swarm.peers[n], SOME) for n in self.near])
        while batch := search.next_peers():
            for record in batch:
                n = swarm.index[record.peer]
                if not swarm.delay(at, n)[1]:
                    search.receive(record, None)
                    continue
                asked.add(n)
                rows = swarm.nearest(n, self.position, at)
                search.receive(
                    record, [PeerRecord(swarm.peers[o], SOME) for _, o in rows if isinstance(o, int)]
                )
        self.near = [swarm.index[record.peer] for record in search.found[: 2 * K]]
        self._met.append((at, frozenset(asked)))

    def near_bits(self) -> int:
        return kad.near_bits(self.position, (self.swarm.ids[n] for n in self.near))

    def nearest(self, target: int) -> Sequence[tuple[int, int]]:
        rows = ((self.swarm.ids[n] ^ target, n) for n in self.near)
        return heapq.nsmallest(K, rows, key=lambda row: row[0])


class _Search:
    """One ``runLookupWithFollowup`` in virtual time."""

    def __init__(self, swarm: KadSwarm, target: int, at: float) -> None:
        self._swarm, self._target, self._began = swarm, target, at
        self._order: list[tuple[int, int | SimulatedRelay]] = []
        self._state: dict[int | SimulatedRelay, str] = {}
        self._pending: list[tuple[float, int, int | SimulatedRelay, bool]] = []
        self._asked = 0

    def run(self) -> Found:
        swarm, at = self._swarm, self._began
        self._hear(swarm.nearest(swarm.anybody(at), self._target, at))
        following_up = False
        while True:
            following_up = following_up or self._has_converged()
            self._ask(at, K if following_up else None)
            if not self._pending:
                return Found(False, at - self._began, self._asked)
            at, _, who, answers = heapq.heappop(self._pending)
            self._state[who] = "answered" if answers else "silent"
            if not answers:
                continue
            if isinstance(who, SimulatedRelay):
                if self._target in who.tabs:
                    return Found(at - self._began <= PATIENCE, at - self._began, self._asked)
                self._hear(who.nearest(self._target))
            else:
                self._hear(swarm.nearest(who, self._target, at))

    def _hear(self, rows: Iterable[tuple[int, int | SimulatedRelay]]) -> None:
        for distance, who in rows:
            if who not in self._state:
                self._state[who] = "heard"
                self._order.append((distance, who))
        self._order.sort(key=lambda row: row[0])

    def _living(self) -> list[int | SimulatedRelay]:
        return [who for _, who in self._order if self._state[who] != "silent"]

    def _has_converged(self) -> bool:
        living = self._living()[:BETA]
        return bool(living) and all(self._state[who] == "answered" for who in living)

    def _ask(self, at: float, among: int | None) -> None:
        """All of the nearest at once in the end; before it the nearest, ten at a time."""
        candidates = [who for who in self._living()[:among] if self._state[who] == "heard"]
        room = len(candidates) if among else ALPHA - len(self._pending)
        for who in candidates[: max(room, 0)]:
            seconds, answers = self._swarm.delay(at, who)
            self._state[who] = "asked"
            self._asked += 1
            heapq.heappush(self._pending, (at + seconds, self._asked, who, answers))

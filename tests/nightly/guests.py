"""Tabs' stand-ins that come and go: ``guests.py RELAY COUNT SEED MEAN_LIFE ASK_EVERY [NEW]`` hosts COUNT.

Each is a libp2p peer of its own connections: it takes a slot through a WebSocket, announces blocks, answers
echoes through circuits, asks one of the others every few seconds (0: never), and after a while leaves in
order, says nothing, or comes back under the identity it had, unless it is one of NEW (a share; half). Prints
what happened as JSON lines. Rule of the file: the seed decides who does what when; what the machine makes of
it is its own affair.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter

from kwaainet.errors import KwaaiNetError
from kwaainet.identity.keys import PrivateKey
from kwaainet.native.host import NativeHost
from kwaainet.node.announce import RelayAnnouncer
from kwaainet.node.directory import directory_reader
from kwaainet.swarm.announcement import MIN_TTL, Announcement
from kwaainet.swarm.server_info import ModelInfo, ServerInfo
from kwaainet.types import PeerId, ServerState

ECHO = "Nightly.rpc_echo"
PREFIX, BLOCKS = "soak", 12
PATIENCE = 30.0
TTL = 120.0  # seconds an announcement lives, of those who stay for long
PAUSE = 5.0  # seconds until a place is filled again, at most
REPORT_EVERY = 1.0  # at most; whose guests are quick says so more often


class Party:
    """The guests of this process and what became of their calls."""

    def __init__(self, relay: str, seed: int, mean_life: float, ask_every: float, new: float) -> None:
        self.relay, self.mean_life, self.ask_every, self.new = relay, mean_life, ask_every, new
        self.ttl = min(TTL, max(MIN_TTL, 10 * mean_life))
        self.random = random.Random(seed)
        self.present: dict[PeerId, NativeHost] = {}  # who is here, by the stay it is
        self.seen: Counter[str] = Counter()

    async def guest(self, first: float) -> None:
        """One place, filled again and again; the first time after ``first`` seconds."""
        identity = self._identity()
        await asyncio.sleep(first)
        while True:
            try:
                await self._live(identity)
            except (KwaaiNetError, TimeoutError) as error:
                self.seen[f"lost: {type(error).__name__}"] += 1
            if self.random.random() < self.new:
                identity = self._identity()
            await asyncio.sleep(self.random.uniform(0, min(PAUSE, self.mean_life, self.ask_every)))

    def _identity(self) -> PrivateKey:
        return PrivateKey(self.random.randbytes(32))

    async def _live(self, identity: PrivateKey) -> None:
        host = await NativeHost.create(identity, [f"{self.relay}/p2p-circuit"])
        quietly = self.random.random() < 0.5
        try:
            host.handle_unary(ECHO, _echo)
            await host.listen()
            relay = next(iter(host.connected_peers))
            announcer = RelayAnnouncer(host, relay)
            start = self.random.randrange(BLOCKS - 1)
            end = self.random.randint(start + 1, BLOCKS)
            info = ServerInfo(ServerState.ONLINE, 10.0, start, end, using_relay=True)
            said = Announcement(PREFIX, info, self.ttl, ModelInfo(BLOCKS))
            await announcer.announce(said)
            self.present[host.peer_id] = host
            self.seen["came"] += 1
            await self._serve(host, announcer, said, self.random.expovariate(1 / self.mean_life))
            if not quietly:
                await announcer.announce(said.with_state(ServerState.OFFLINE))
        finally:
            if self.present.get(host.peer_id) is host:
                del self.present[host.peer_id]
            if quietly:
                _vanish(host)
            await host.close()

    async def _serve(
        self, host: NativeHost, announcer: RelayAnnouncer, said: Announcement, life: float
    ) -> None:
        if not self.ask_every:
            await asyncio.sleep(life)
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + life
        read = directory_reader(host, next(iter(host.connected_peers)))
        announced = loop.time()
        while loop.time() < end:
            await asyncio.sleep(self.random.uniform(0.5, 1.5) * self.ask_every)
            if self.random.random() < 0.1:
                await read(PREFIX, BLOCKS)
                self.seen["read"] += 1
            await self._ask(host)
            if loop.time() > announced + self.ttl / 2:
                announced = loop.time()
                await announcer.announce(said)

    async def _ask(self, host: NativeHost) -> None:
        others = [peer for peer in self.present if peer != host.peer_id]
        if not others:
            return
        other, text = self.random.choice(others), self.random.randbytes(self.random.randint(1, 20_000))
        stay = self.present[other]  # who comes back under the same identity has left all the same
        try:
            answer = await host.call(other, ECHO, text, timeout=PATIENCE)
        except (KwaaiNetError, TimeoutError) as error:
            if self.present.get(other) is not stay:
                self.seen["left meanwhile"] += 1
                return
            self.seen[f"failed: {type(error).__name__}"] += 1
            print(f"{host.peer_id} asked {other}: {error!r}", file=sys.stderr, flush=True)
        else:
            self.seen["answered" if answer == text else "wrong"] += 1


async def _echo(peer: PeerId, request: bytes) -> bytes:
    return request


def _vanish(host: NativeHost) -> None:
    """As a machine does that is switched off, as far as its system lets it: no goodbye is said."""
    for link in list(host.network.links()):
        link.lost("it vanished")
        link._wire.close()


async def main(
    relay: str, count: int, seed: int, mean_life: float, ask_every: float, new: float = 0.5
) -> None:
    party = Party(relay, seed, mean_life, ask_every, new)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: os._exit(0))
    guests = [asyncio.ensure_future(party.guest(place * 0.05)) for place in range(count)]
    while True:
        await asyncio.wait(guests, timeout=min(REPORT_EVERY, ask_every), return_when=asyncio.FIRST_EXCEPTION)
        for guest in guests:
            if guest.done():
                guest.result()
        print(json.dumps({"event": "guests", "present": len(party.present), **party.seen}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *map(float, sys.argv[4:])))

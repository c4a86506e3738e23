"""Load for a relay without the weight of a second encryption: idle peers, and circuits of plain bytes.

``python circuit_load.py RELAY_MULTIADDR``, then JSON commands on stdin, a line each, and answers on stdout:

    {"do": "idle", "peers": N}                 N peers connect, take a slot and stay -> {"seconds": S}
    {"do": "knock", "peers": N}                N peers try, and leave -> {"refused": R, "seconds": S}
    {"do": "sink"}                             a peer that takes bytes, and echoes steps -> {"peer": ID}
    {"do": "echo", "peer": ID, "seconds": S}   steps there and back -> {"milliseconds": [...]}
    {"do": "flood", "peer": ID, "seconds": S, "rate": R}  bytes through one circuit, R a second or,
                                               for 0, as many as it takes -> {"bytes": B}

The peers are of this package, so that a load costs its generator hardly more than the relay. Rule of the
file: a circuit's bytes are taken by the peer at its end, whose yamux window bounds what is under way.
"""

from __future__ import annotations

import asyncio
import gc
import json
import secrets
import sys
import time
from typing import Any

import uvloop

from kwaainet.errors import KwaaiNetError, StreamReset
from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p import circuit
from kwaainet.libp2p.circuit import HopMessage, HopType, Status, StopMessage, StopType
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.native.host import NativeHost
from kwaainet.native.stream import RawStream
from kwaainet.types import PeerId

AT_ONCE = 8  # connections being set up
STEP = 1002  # bytes of a decode step of a small model, as petals sends it
GAP = 0.01  # seconds between two steps
CHUNK = bytes(64 << 10)
TURN = 0.001  # seconds between bursts of a flood that has a rate: longer ones are what steps would wait for


class Generator:
    """Peers of one relay."""

    def __init__(self, relay: str) -> None:
        self._relay = relay
        self._hosts: list[NativeHost] = []

    async def idle(self, peers: int) -> dict[str, float]:
        started = time.perf_counter()
        left = iter(range(peers))

        async def connect() -> None:
            for _ in left:
                await self._peer(slot=True)

        await asyncio.gather(*(connect() for _ in range(AT_ONCE)))
        return {"seconds": time.perf_counter() - started}

    async def knock(self, peers: int) -> dict[str, float]:
        started = time.perf_counter()
        left, refused = iter(range(peers)), 0

        async def try_once() -> None:
            nonlocal refused
            for _ in left:
                host = await NativeHost.create(PrivateKey(secrets.token_bytes(32)))
                try:
                    await host.connect(self._relay)
                except KwaaiNetError:
                    refused += 1
                finally:
                    await host.close()

        await asyncio.gather(*(try_once() for _ in range(AT_ONCE)))
        return {"refused": refused, "seconds": time.perf_counter() - started}

    async def sink(self) -> dict[str, str]:
        host = await self._peer(slot=True)
        host.handle_raw(circuit.STOP_PROTOCOL, _take)
        return {"peer": str(host.peer_id)}

    async def echo(self, peer: str, seconds: float) -> dict[str, list[float]]:
        stream = await self._circuit(peer)
        times = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            await asyncio.sleep(GAP)
            started = time.perf_counter()
            stream.write(bytes(STEP))
            received = 0
            while received < STEP:
                received += len(await stream.read())
            times.append(1000 * (time.perf_counter() - started))
        stream.reset()
        return {"milliseconds": times}

    async def flood(self, peer: str, seconds: float, rate: float = 0.0) -> dict[str, float]:
        stream = await self._circuit(peer)
        sent = 0
        started = time.perf_counter()
        while (now := time.perf_counter() - started) < seconds:
            if rate and sent >= rate * now:
                await asyncio.sleep(TURN)
                continue
            stream.write(CHUNK)
            sent += len(CHUNK)
            await stream.drain()
        taken = sent - stream.unsent
        stream.reset()
        return {"bytes": taken}

    async def _peer(self, *, slot: bool) -> NativeHost:
        listen = [f"{self._relay}/p2p-circuit"] if slot else []
        host = await NativeHost.create(PrivateKey(secrets.token_bytes(32)), listen)
        await host.listen()
        self._hosts.append(host)
        return host

    async def _circuit(self, peer: str) -> RawStream:
        """A stream that the relay joins with one of the peer's, with nothing above it."""
        host = await self._peer(slot=False)
        relay = await host.connect(self._relay)
        stream = await host.open_raw(relay, circuit.HOP_PROTOCOL, timeout=30.0)
        wanted = HopMessage(HopType.CONNECT, peer=circuit.Peer(PeerId.parse(peer).data))
        stream.write_message(wanted.encode())
        answer = HopMessage.decode(await stream.read_message(circuit.MAX_MESSAGE) or b"")
        assert answer.status == Status.OK, answer
        return stream


async def _take(stream: RawStream) -> None:
    """Accept a circuit; echo what comes in pieces of a step's size, drop what comes in bulk."""
    await stream.read_message(circuit.MAX_MESSAGE)
    stream.write_message(StopMessage(StopType.STATUS, status=Status.OK).encode())
    while data := await stream.read():
        if len(data) <= STEP:
            stream.write(data)


async def main(relay: str) -> None:
    """Obey commands, one at a time, until stdin ends."""
    Multiaddr.parse(relay)
    generator = Generator(relay)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    print(json.dumps({"ready": True}), flush=True)
    while line := await reader.readline():
        command: dict[str, Any] = json.loads(line)
        try:
            answer = await getattr(generator, command.pop("do"))(**command)
        except StreamReset as error:
            answer = {"failed": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    gc.disable()  # thousands of peers are gone through for seconds, while the relay waits for answers
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))

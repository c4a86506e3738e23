"""A relay, a server that holds a slot on it, and clients, for tests of what passes between them."""

import asyncio
import os

from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p import circuit
from kwaainet.libp2p.circuit import HopMessage, HopType, Status, StopMessage, StopType
from kwaainet.native.host import NativeHost
from kwaainet.native.relay import Relay

ANY = "/ip4/127.0.0.1/tcp/0"


async def host(*listen):
    made = await NativeHost.create(PrivateKey(os.urandom(32)), listen)
    await made.listen()
    return made


class Scene:
    """A relay, a server that holds a slot on it, and clients; connections direct to the relay only."""

    async def __aenter__(self):
        self.hosts, self.tasks = [], []
        relay = self.hub = await NativeHost.create(PrivateKey(os.urandom(32)), [ANY, ANY + "/ws"])
        self.relay = Relay(relay, **self.options)
        await relay.listen()
        self.server = await host(relay.addresses[1] + "/p2p-circuit")
        self.client = await self.join()
        self.hosts += [self.server, relay]
        return self

    def __init__(self, **options):
        self.options = options

    async def join(self):
        client = await host()
        await client.connect(self.hub.addresses[0])
        self.hosts.insert(0, client)
        return client

    async def __aexit__(self, *problem):
        for task in self.tasks:
            task.cancel()
        for one in self.hosts:
            await one.close()

    def through(self, target=None):
        return f"{self.hub.addresses[0]}/p2p-circuit/p2p/{(target or self.server).peer_id}"


async def raw(scene, client=None, protocol="echo"):
    """A raw circuit: (the client's stream to the relay, the server's stream from it)."""
    stops = asyncio.Queue()

    async def accept(stream):
        await stream.read_message(circuit.MAX_MESSAGE)
        stream.write_message(StopMessage(StopType.STATUS, status=Status.OK).encode())
        stops.put_nowait(stream)

    scene.server.handle_raw(circuit.STOP_PROTOCOL, accept)
    stream = await hop(
        scene,
        client or scene.client,
        HopMessage(HopType.CONNECT, peer=circuit.Peer(scene.server.peer_id.data)),
    )
    reply = HopMessage.decode(await stream.read_message(circuit.MAX_MESSAGE))
    assert reply == HopMessage(HopType.STATUS, status=Status.OK), "and no limit"
    return stream, await stops.get()


async def hop(scene, client, message):
    stream = await client.open_raw(scene.hub.peer_id, circuit.HOP_PROTOCOL, timeout=60)
    stream.write_message(message if isinstance(message, bytes) else message.encode())
    return stream


async def read_exactly(stream, size):
    data = bytearray()
    while len(data) < size:
        data += await stream.read()
    return bytes(data)


def passing(monkeypatch):
    """A function that sets the clock of the loop that runs ahead, and lets it see that."""
    loop, ahead = asyncio.get_running_loop(), 0.0
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + ahead)

    async def let_pass(seconds):
        nonlocal ahead
        ahead += seconds
        for _ in range(5):
            await asyncio.sleep(0)

    return let_pass


async def until(condition):
    while not condition():
        await asyncio.sleep(0)

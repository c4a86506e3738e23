"""identify, push and ping between two networks."""

import asyncio
import os

import pytest

from kwaainet.errors import StreamReset
from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p import identify
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.native import identify as module
from kwaainet.native import transport
from kwaainet.native.crypto import NativeCrypto
from kwaainet.native.identify import Identification
from kwaainet.native.network import Network


def node(agent):
    network = Network(PrivateKey(os.urandom(32)), NativeCrypto())
    Identification(network, agent)
    return network


async def connected():
    server, client = node("server/1"), node("client/1")
    await server.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0/ws"))
    [address] = server.addresses
    link = await transport.dial(address, lambda wire, _: client.connect(wire, address, initiator=True))
    await link.ready
    return server, client, link


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


def run(test):
    return asyncio.run(asyncio.wait_for(test, 60))


def test_both_sides_describe_themselves_on_connecting():
    async def main():
        server, client, _ = await connected()
        await until(lambda: client.peerstore.description(server.peer_id).agent)
        await until(lambda: server.peerstore.description(client.peer_id).agent)
        told = client.peerstore.description(server.peer_id)
        assert told.agent == "server/1"
        assert list(told.addresses) == server.addresses
        assert {identify.PROTOCOL, identify.PUSH_PROTOCOL, identify.PING_PROTOCOL} <= told.protocols
        assert told.observed is not None
        assert str(told.observed).startswith("/ip4/127.0.0.1/tcp/")
        client.close()
        await until(lambda: not server.peers)
        assert server.peerstore.description(client.peer_id).agent == ""
        server.close()

    run(main())


def test_a_peer_that_never_answers_leaves_no_stream_behind(monkeypatch):
    monkeypatch.setattr(module, "_TIMEOUT", 0.01)

    async def silent(stream):
        await asyncio.Event().wait()

    async def main():
        server, client = node("server/1"), node("client/1")
        server.handle(identify.PROTOCOL, silent)
        await server.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0/ws"))
        [address] = server.addresses
        link = await transport.dial(address, lambda wire, _: client.connect(wire, address, initiator=True))
        await link.ready
        await until(lambda: link.streams)
        await until(lambda: link.streams == 0)
        assert client.peerstore.description(server.peer_id).agent == ""
        client.close()
        server.close()

    run(main())


def test_changes_are_pushed():
    async def main():
        server, client, _ = await connected()
        await until(lambda: server.peerstore.description(client.peer_id).agent)

        async def handler(stream):
            pass

        server.handle("New.protocol", handler)
        server.add_circuit(Multiaddr.parse("/ip4/9.9.9.9/tcp/9/p2p-circuit"))
        await until(lambda: "New.protocol" in client.peerstore.description(server.peer_id).protocols)
        assert Multiaddr.parse("/ip4/9.9.9.9/tcp/9/p2p-circuit") in client.peerstore.addresses(server.peer_id)
        client.close()
        server.close()

    run(main())


def test_ping_echoes():
    async def main():
        server, client, link = await connected()
        stream = link.open_stream(identify.PING_PROTOCOL)
        for _ in range(2):
            data = os.urandom(identify.PING_SIZE)
            stream.write(data)
            assert await stream.read() == data
        stream.finish()
        assert await stream.read() == b""
        client.close()
        server.close()

    run(main())


def test_a_peer_that_tells_nonsense_is_served_all_the_same():
    async def main():
        server, client = node("server/1"), Network(PrivateKey(os.urandom(32)), NativeCrypto())

        async def nonsense(stream):
            stream.write_message(b"\xff\xff\xff")
            stream.close()

        client.handle(identify.PROTOCOL, nonsense)
        await server.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"))
        [address] = server.addresses
        link = await transport.dial(address, lambda wire, _: client.connect(wire, address, initiator=True))
        await link.ready
        for _ in range(50):
            await asyncio.sleep(0)
        stream = link.open_stream(identify.PROTOCOL)
        assert identify.read(await stream.read_message(identify.MAX_MESSAGE)).agent == "server/1"
        client.close()
        server.close()

    run(main())


def test_who_pings_no_more_does_not_hold_its_stream(monkeypatch):
    async def main():
        monkeypatch.setattr(module, "PING_IDLE", 0.02)
        server, client, link = await connected()
        stream = link.open_stream(identify.PING_PROTOCOL)
        stream.write(b"ping")
        assert bytes(await stream.read()) == b"ping"
        with pytest.raises(StreamReset):
            await stream.read()
        assert not link.closed
        client.close()
        server.close()

    run(main())

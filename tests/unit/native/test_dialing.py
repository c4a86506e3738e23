"""Dialling by bare peer id: what is tried, in which order, and how failure is told."""

import asyncio
import os

import pytest

from kwaainet.errors import InputError, Unreachable
from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.native import dialing as module
from kwaainet.native.host import NativeHost
from kwaainet.types import PeerId

ANY = "/ip4/127.0.0.1/tcp/0"
STRANGER = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(range(32)))


async def host(*listen):
    made = await NativeHost.create(PrivateKey(os.urandom(32)), listen)

    async def upper(peer, request):
        return request.upper()

    made.handle_unary("T.upper", upper)
    await made.listen()
    return made


async def closed_port():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    return Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}")


def call(client, peer):
    return client.call(peer, "T.upper", b"x", timeout=60)


def run(test):
    return asyncio.run(asyncio.wait_for(test, 60))


def test_known_addresses_are_dialled_even_if_some_are_dead():
    async def main():
        server, client = await host(ANY), await host()
        foreign = Multiaddr.parse("/ip4/127.0.0.1/udp/1/quic-v1")
        store = client.network.peerstore
        store.add(server.peer_id, [foreign, await closed_port(), *server.network.addresses])
        assert await call(client, server.peer_id) == b"X"
        await client.close()
        await server.close()

    run(main())


def test_a_silent_address_delays_the_next_one_only_a_little(monkeypatch):
    async def main():
        monkeypatch.setattr(module, "STAGGER", 0.01)
        silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        server, client = await host(ANY), await host()
        client.network.peerstore.add(
            server.peer_id, [Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}"), *server.network.addresses]
        )
        assert await call(client, server.peer_id) == b"X"
        await client.close()
        await server.close()
        silent.close()

    run(main())


def test_what_was_tried_is_said():
    async def main():
        client = await host()
        dead = await closed_port()
        client.network.peerstore.add(STRANGER, [dead])
        with pytest.raises(Unreachable) as caught:
            await call(client, STRANGER)
        assert str(STRANGER) in str(caught.value)
        assert str(dead) in str(caught.value)
        assert "0 kad servers" in str(caught.value)
        await client.close()

    run(main())


def test_an_address_where_somebody_else_lives_is_not_taken():
    async def main():
        server, client = await host(ANY), await host()
        client.network.peerstore.add(STRANGER, server.network.addresses)
        with pytest.raises(Unreachable, match="answered"):
            await call(client, STRANGER)
        assert client.connected_peers == []
        await client.close()
        await server.close()

    run(main())


def test_one_dial_serves_all_who_ask():
    async def main():
        server, client = await host(ANY), await host()
        opened = []
        server.network.on_opened(opened.append)
        client.network.peerstore.add(server.peer_id, server.network.addresses)
        assert await asyncio.gather(*(call(client, server.peer_id) for _ in range(10))) == [b"X"] * 10
        assert len(opened) == 1
        await client.close()
        await server.close()

    run(main())


def test_giving_up_a_call_does_not_stop_the_dial_of_another():
    async def main():
        server, client = await host(ANY), await host()
        client.network.peerstore.add(server.peer_id, server.network.addresses)
        first = asyncio.ensure_future(call(client, server.peer_id))
        second = asyncio.ensure_future(call(client, server.peer_id))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == b"X"
        await client.close()
        await server.close()

    run(main())


def test_an_address_that_never_answers_runs_into_its_deadline(monkeypatch):
    async def main():
        monkeypatch.setattr(module, "DIAL_TIMEOUT", 0.05)
        silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        client = await host()
        with pytest.raises(Unreachable, match="no answer within"):
            await client.connect(f"/ip4/127.0.0.1/tcp/{port}")
        await client.close()
        silent.close()

    run(main())


def test_oneself_cannot_be_called_and_odd_circuits_cannot_be_dialled():
    async def main():
        client = await host()
        with pytest.raises(Unreachable, match="itself"):
            await call(client, client.peer_id)
        with pytest.raises(InputError, match="names no peer"):
            await client.connect("/ip4/127.0.0.1/tcp/1/p2p-circuit")
        double = f"/ip4/127.0.0.1/tcp/1/p2p/{STRANGER}/p2p-circuit/p2p/{STRANGER}/p2p-circuit/p2p/{STRANGER}"
        with pytest.raises(Unreachable, match="two relays"):
            await client.connect(double)
        await client.close()

    run(main())


def test_closing_ends_dials_under_way():
    async def main():
        silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        client = await host()
        client.network.peerstore.add(STRANGER, [Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}")])
        calling = asyncio.ensure_future(call(client, STRANGER))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises((Unreachable, asyncio.CancelledError)):
            await calling
        silent.close()

    run(main())

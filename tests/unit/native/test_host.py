"""What the native host has beyond its port (the port's suite is in tests/ports)."""

import asyncio
import os

import pytest

from kwaainet.errors import HandshakeError, InputError, RequestError, RpcError, Unreachable
from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p import kad
from kwaainet.native import host as module
from kwaainet.native.host import NativeHost

ANY = "/ip4/127.0.0.1/tcp/0"


async def host(*listen, **options):
    made = await NativeHost.create(PrivateKey(os.urandom(32)), listen, **options)
    await made.listen()
    return made


def run(test):
    return asyncio.run(asyncio.wait_for(test, 60))


async def upper(peer, request):
    return request.upper()


def test_both_sides_may_call_over_one_connection():
    async def main():
        server, client = await host(ANY), await host()
        for one in (server, client):
            one.handle_unary("T.upper", upper)
        assert await client.connect(server.addresses[0]) == server.peer_id
        assert await client.call(server.peer_id, "T.upper", b"a", timeout=60) == b"A"
        assert await server.call(client.peer_id, "T.upper", b"b", timeout=60) == b"B"
        assert server.connected_peers == [client.peer_id]
        await client.close()
        await server.close()

    run(main())


def test_addresses_end_in_the_peer_and_only_listeners_serve_kad():
    async def main():
        server, client = await host(ANY, ANY + "/ws"), await host()
        assert [address.split("/")[-2:] for address in server.addresses] == [["p2p", str(server.peer_id)]] * 2
        assert client.addresses == []
        assert server.network.supports(kad.PROTOCOL)
        assert not client.network.supports(kad.PROTOCOL)
        announced = await host(ANY, announce=["/dns4/a.example/tcp/443/wss"])
        assert announced.addresses == [f"/dns4/a.example/tcp/443/wss/p2p/{announced.peer_id}"]
        for one in (server, client, announced):
            await one.close()

    run(main())


def test_bad_addresses_are_refused_before_anything_is_bound():
    with pytest.raises(InputError, match="'frob'"):
        run(host("/frob/1"))
    with pytest.raises(InputError, match="'frob'"):
        run(host(announce=["/frob/1"]))


def test_connect_says_what_is_wrong():
    async def main():
        server, client = await host(ANY), await host()
        wrong = server.addresses[0].replace(str(server.peer_id), str(client.peer_id))
        with pytest.raises(InputError, match="own address"):
            await client.connect(wrong)
        other = await host()
        with pytest.raises(HandshakeError, match="but"):
            await other.connect(wrong)
        with pytest.raises(Unreachable, match="only tcp, ws and wss"):
            await client.connect("/ip4/127.0.0.1/udp/1/quic-v1")
        assert await client.connect(server.addresses[0].rpartition("/p2p/")[0]) == server.peer_id
        for one in (server, client, other):
            await one.close()

    run(main())


def test_a_peer_is_told_lost_when_its_last_connection_ends():
    async def main():
        server, client = await host(ANY), await host()
        lost = asyncio.get_running_loop().create_future()
        server.on_peer_lost(lost.set_result)
        await client.connect(server.addresses[0])
        await client.close()
        assert await lost == client.peer_id
        await server.close()

    run(main())


def test_a_protocol_nobody_serves_is_named():
    async def main():
        server, client = await host(ANY), await host()
        await client.connect(server.addresses[0])
        with pytest.raises(HandshakeError, match=r"T\.nope"):
            await client.call(server.peer_id, "T.nope", b"x" * 1000, timeout=60)
        with pytest.raises(HandshakeError, match=r"T\.nope"):
            await client.open_stream(server.peer_id, "T.nope", timeout=60)
        await client.close()
        await server.close()

    run(main())


def test_closing_tells_callers_at_once_and_waits_for_them_briefly(monkeypatch):
    async def main():
        monkeypatch.setattr(module, "FAREWELL_SECONDS", 10.0)
        server, client = await host(ANY), await host()
        held = asyncio.Event()

        async def hold(stream):
            held.set()
            await stream.receive()

        server.handle_stream("T.hold", hold)
        await client.connect(server.addresses[0])
        stream = await client.open_stream(server.peer_id, "T.hold", timeout=60)
        await held.wait()
        closing = asyncio.ensure_future(server.close())
        with pytest.raises(RpcError, match="leaving"):
            await stream.receive()
        await stream.close()
        await closing
        with pytest.raises(Unreachable):
            await client.call(server.peer_id, "T.hold", b"", timeout=60)
        await client.close()
        await client.close()

    run(main())


def test_a_closed_host_reaches_nobody():
    async def main():
        server, client = await host(ANY), await host()
        await client.close()
        with pytest.raises(Unreachable):
            await client.connect(server.addresses[0])
        with pytest.raises(Unreachable, match="closed"):
            await client.call(server.peer_id, "T.upper", b"", timeout=60)
        await server.close()

    run(main())


def test_raw_protocols_share_the_connection():
    async def main():
        server, client = await host(ANY), await host()

        async def echo(stream):
            stream.write(await stream.read())
            stream.close()

        server.handle_raw("/echo/1", echo)
        await client.connect(server.addresses[0])
        stream = await client.open_raw(server.peer_id, "/echo/1", timeout=60)
        stream.write(b"hello")
        assert await stream.read() == b"hello"
        stream.close()
        await client.close()
        await server.close()

    run(main())


def test_a_handlers_errors_are_told_as_hivemind_tells_them():
    async def main():
        server, client = await host(ANY), await host()

        async def refuse(peer, request):
            raise RequestError("no block 7")

        async def refuse_stream(stream):
            raise RequestError("no block 8")

        server.handle_unary("T.unary", refuse)
        server.handle_stream("T.stream", refuse_stream)
        await client.connect(server.addresses[0])
        with pytest.raises(RpcError, match=r"^RequestError\('no block 7'\)$"):
            await client.call(server.peer_id, "T.unary", b"", timeout=60)
        stream = await client.open_stream(server.peer_id, "T.stream", timeout=60)
        with pytest.raises(RpcError, match=r"^no block 8$"):
            await stream.receive()
        await stream.close()
        await client.close()
        await server.close()

    run(main())

"""Sockets and WebSockets under links; what is refused and how it is told."""

import asyncio
import contextlib
import os
import socket

import picows
import pytest

from kwaainet.errors import HandshakeError, InputError, Unreachable
from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.native import transport
from kwaainet.native.crypto import NativeCrypto
from kwaainet.native.network import Network

ANY = {"tcp": "/ip4/127.0.0.1/tcp/0", "ws": "/ip4/127.0.0.1/tcp/0/ws"}
UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
UPGRADE += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"


def network():
    return Network(PrivateKey(os.urandom(32)), NativeCrypto())


async def dial(one, address, **options):
    link = await transport.dial(
        address, lambda wire, _: one.connect(wire, address, initiator=True, **options)
    )
    return await link.ready, link


def run(test):
    return asyncio.run(asyncio.wait_for(test, 60))


@pytest.mark.parametrize("kind", ["tcp", "ws"])
def test_two_networks_connect_and_large_data_passes(kind):
    async def main():
        one, other = network(), network()

        async def echo(stream):
            while data := await stream.read():
                stream.write(data)
                await stream.drain()
            stream.close()

        other.handle("echo", echo)
        listener = await transport.listen(Multiaddr.parse(ANY[kind]), other.accept)
        assert listener.address.names == Multiaddr.parse(ANY[kind]).names
        peer, link = await dial(one, listener.address, expected_peer=other.peer_id)
        assert peer == other.peer_id
        stream = link.open_stream("echo")
        data = os.urandom(5 << 20)
        stream.write(data)
        stream.finish()
        back = bytearray()
        while chunk := await stream.read():
            back += chunk
        assert back == data
        one.close()
        other.close()
        listener.close()

    run(main())


@pytest.mark.parametrize("kind", ["tcp", "ws"])
def test_a_closed_connection_is_seen_at_the_other_end(kind):
    async def main():
        one, other = network(), network()
        lost = asyncio.get_running_loop().create_future()
        other.on_lost(lost.set_result)
        listener = await transport.listen(Multiaddr.parse(ANY[kind]), other.accept)
        _, link = await dial(one, listener.address)
        link.close("enough")
        assert await lost == one.peer_id
        assert one.peers == other.peers == []
        listener.close()

    run(main())


def test_ipv6_with_websockets():
    async def main():
        one, other = network(), network()
        listener = await transport.listen(Multiaddr.parse("/ip6/::1/tcp/0/ws"), other.accept)
        peer, link = await dial(one, listener.address)
        assert peer == other.peer_id
        assert str(link.address).startswith("/ip6/::1/tcp/")
        one.close()
        listener.close()

    run(main())


@pytest.mark.parametrize("tail", ["", "/ws"])
@pytest.mark.parametrize(("family", "host"), [("ip4", "127.0.0.1"), ("ip6", "::1")])
def test_both_families_and_names_that_are_of_one(family, host, tail):
    """``dns4`` never leads to an IPv6 address, nor ``dns6`` to an IPv4 one; ``dns`` leads to either."""

    async def main():
        other = network()
        bound = Multiaddr.parse(f"/{family}/{host}/tcp/0{tail}")
        listener = await transport.listen(bound, other.accept)
        peer, link = await dial(network(), listener.address)
        assert peer == other.peer_id
        link.close("enough")
        _, port = listener.address.host_port
        wrong = "dns6" if family == "ip4" else "dns4"
        with pytest.raises(Unreachable):
            await dial(network(), Multiaddr.parse(f"/{wrong}/localhost/tcp/{port}{tail}"))
        if family == "ip4":
            for kind in ("dns", "dns4"):
                address = Multiaddr.parse(f"/{kind}/localhost/tcp/{port}{tail}")
                assert (await dial(network(), address))[0] == other.peer_id
        listener.close()

    run(main())


@pytest.mark.parametrize(
    "text", ["/ip4/127.0.0.1/udp/1/quic-v1", "/ip4/127.0.0.1/tcp/443/wss", "/dns4/localhost/tcp/1"]
)
def test_what_cannot_be_listened_on_is_refused(text):
    with pytest.raises(InputError, match="cannot listen on"):
        run(transport.listen(Multiaddr.parse(text), lambda wire, address: None))


@pytest.mark.parametrize("suffix", ["", "/ws"])
def test_a_port_in_use_and_a_port_nobody_listens_on(suffix):
    async def main():
        listener = await transport.listen(
            Multiaddr.parse("/ip4/127.0.0.1/tcp/0" + suffix), lambda wire, address: None
        )
        with pytest.raises(Unreachable, match="cannot listen"):
            await transport.listen(listener.address, lambda wire, address: None)
        listener.close()
        with pytest.raises(Unreachable, match=str(listener.address)):
            await dial(network(), listener.address)

    run(main())


@pytest.mark.parametrize("kind", ["tcp", "ws"])
def test_a_refused_connection_ends_at_once(kind):
    async def main():
        listener = await transport.listen(Multiaddr.parse(ANY[kind]), lambda wire, address: None)
        with pytest.raises((Unreachable, HandshakeError, Exception)):
            await dial(network(), listener.address)
        listener.close()

    run(main())


@pytest.mark.parametrize("suffix", ["", "/ws"])
@pytest.mark.parametrize("name", ["a" * 64 + ".example", "two..dots", "no-such-host.invalid"])
def test_a_name_that_no_host_has_is_out_of_reach(name, suffix):
    async def main():
        with pytest.raises(Unreachable):
            await transport.dial(Multiaddr.parse(f"/dns4/{name}/tcp/1{suffix}"), lambda wire, address: None)

    asyncio.run(main())


def test_a_dialer_that_is_full_says_so():
    async def main():
        listener = await transport.listen(Multiaddr.parse(ANY["tcp"]), network().accept)
        with pytest.raises(Unreachable, match="too many connections"):
            await transport.dial(listener.address, lambda wire, address: None)
        listener.close()

    run(main())


def test_a_text_message_ends_a_websocket():
    async def main():
        listener = await transport.listen(Multiaddr.parse(ANY["ws"]), network().accept)
        _, port = listener.address.host_port
        client, _ = await picows.ws_connect(picows.WSListener, f"ws://127.0.0.1:{port}/")
        client.send(picows.WSMsgType.TEXT, b"hello")
        await client.wait_disconnected()
        listener.close()

    run(main())


def test_who_sends_faster_than_is_read_does_not_make_the_buffer_larger_and_larger(monkeypatch):
    """The system's own buffer may hold 32 MB, and picows' doubles as often as a read fills it."""
    rooms = []

    def buffer_updated(self, size):
        transport.WSProtocol.buffer_updated(self, size)
        rooms.append(len(transport.WSProtocol.get_buffer(self, -1)))

    monkeypatch.setattr(transport._WsServer, "buffer_updated", buffer_updated)
    ping = b"\x89\xfd" + bytes(4 + 125)
    pings = ping * 8000

    async def main():
        listener = await transport.listen(Multiaddr.parse(ANY["ws"]), network().accept)
        reader, writer = await asyncio.open_connection(*listener.address.host_port)
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        flood = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
        sent = 0
        while len(rooms) < 20:
            with contextlib.suppress(BlockingIOError):
                while True:  # as much as the system takes, while nobody reads
                    sent += flood.send(pings[sent % len(ping) :])
            await asyncio.sleep(0)
        flood.close()
        writer.close()
        listener.close()

    run(main())
    assert max(rooms) < 4 * transport.READ_MOST


def test_a_peer_that_speaks_something_else_is_disconnected():
    async def main():
        listener = await transport.listen(Multiaddr.parse(ANY["tcp"]), network().accept)
        reader, writer = await asyncio.open_connection(*listener.address.host_port)
        writer.write(b"\x04GET /")
        assert await reader.read() == b""
        writer.close()
        listener.close()

    run(main())

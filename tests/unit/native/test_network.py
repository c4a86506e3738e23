"""The table of connections: caps, callbacks, addresses."""

import asyncio
import os
import time

import pytest

from kwaainet.errors import CapacityError, HandshakeError, StreamReset
from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p.admission import Limits
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.native import network as module
from kwaainet.native import transport
from kwaainet.native.crypto import NativeCrypto
from kwaainet.native.network import Network

LISTEN = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")


class Nowhere:
    """A wire that swallows everything."""

    def write(self, data):
        pass

    def close(self):
        pass


def network(*announce):
    return Network(PrivateKey(os.urandom(32)), NativeCrypto(), [Multiaddr.parse(text) for text in announce])


async def listening():
    one = network()
    await one.listen(LISTEN)
    return one


async def dial(one, other):
    [address] = other.addresses
    link = await transport.dial(address, lambda wire, _: one.connect(wire, address, initiator=True))
    await link.ready
    return link


async def read_over_a_new_connection(client, server):
    link = await dial(client, server)
    await link.open_stream("x").read()


def run(test):
    return asyncio.run(asyncio.wait_for(test, 60))


def test_peers_are_counted_once_and_lost_with_their_last_connection():
    async def main():
        server, client = await listening(), network()
        opened, lost = [], asyncio.Queue()
        server.on_opened(opened.append)
        server.on_lost(lost.put_nowait)
        first, second = await dial(client, server), await dial(client, server)
        assert client.peers == [server.peer_id]
        first.close("one less")
        second.close("none left")
        assert await lost.get() == client.peer_id
        assert lost.empty()
        assert len(opened) == 2
        assert server.peers == client.peers == []
        server.close()

    run(main())


def test_the_newest_direct_connection_is_preferred():
    async def main():
        server, client = await listening(), network()
        first, second = await dial(client, server), await dial(client, server)
        assert client.link(server.peer_id) is second
        second.address = second.address / "/p2p-circuit"
        assert client.link(server.peer_id) is first
        assert client.link(client.peer_id) is None
        client.close()
        server.close()

    run(main())


def test_a_failing_callback_harms_nobody():
    async def main():
        server, client = await listening(), network()
        told = asyncio.Queue()
        server.on_lost(lambda peer: 1 / 0)
        server.on_lost(told.put_nowait)
        (await dial(client, server)).close("enough")
        assert await told.get() == client.peer_id
        server.close()

    run(main())


def test_connections_have_caps(monkeypatch):
    async def main():
        monkeypatch.setattr(module, "MAX_HANDSHAKES", 1)
        one = network()
        one.connect(Nowhere(), LISTEN, initiator=True)  # our own dial makes room for nobody
        assert one.accept(Nowhere(), LISTEN) is None
        with pytest.raises(CapacityError, match="1 are opening"):
            one.connect(Nowhere(), LISTEN, initiator=True)
        one.close()
        with pytest.raises(CapacityError, match="closed"):
            one.connect(Nowhere(), LISTEN, initiator=True)

    run(main())


def test_a_full_network_refuses_and_keeps_what_it_has():
    async def main():
        server, client, late = await listening(), network(), network()
        server.max_connections = 1
        link = await dial(client, server)
        with pytest.raises((StreamReset, HandshakeError)):
            await dial(late, server)
        assert not link.closed
        link.close("done")
        while server.peers:
            await asyncio.sleep(0)
        assert not (await dial(late, server)).closed, "there is room again"
        for one in (server, client, late):
            one.close()

    run(main())


def test_the_slowest_handshake_makes_room_for_a_newcomer(monkeypatch):
    async def main():
        monkeypatch.setattr(module, "MAX_HANDSHAKES", 2)
        one = network()
        links = [one.accept(Nowhere(), LISTEN) for _ in range(4)]
        assert [link.closed for link in links] == [True, True, False, False]
        one.close()

    run(main())


def test_connections_of_one_peer_have_a_cap():
    async def main():
        server, client = await listening(), network()
        server.admission.change(Limits().changed("connections", "1,9,9"))
        lost = asyncio.Queue()
        client.on_lost(lost.put_nowait)
        first = await dial(client, server)
        with pytest.raises((StreamReset, HandshakeError)):
            await read_over_a_new_connection(client, server)
        assert client.peers == [server.peer_id]
        assert not first.closed
        client.close()
        server.close()

    run(main())


def test_connecting_to_oneself_ends():
    async def main():
        server = await listening()
        link = await dial(server, server)
        assert link.closed
        assert server.peers == []
        server.close()

    run(main())


def test_streams_being_served_have_a_cap(monkeypatch):
    async def main():
        monkeypatch.setattr(module, "MAX_SERVED", 0)
        server, client = await listening(), network()

        async def never(stream):
            raise AssertionError("must not be called")

        server.handle("echo", never)
        link = await dial(client, server)
        with pytest.raises(StreamReset):
            await link.open_stream("echo").read()
        client.close()
        server.close()

    run(main())


def test_no_peer_takes_all_that_can_be_served():
    async def main():
        server, greedy, modest = await listening(), network(), network()
        server.admission.change(Limits().changed("streams", "2,9,9"))

        async def echo(stream):
            stream.write(await stream.read())
            stream.close()

        server.handle("echo", echo)
        link = await dial(greedy, server)
        waiting = [link.open_stream("echo") for _ in range(2)]
        for stream in waiting:
            await stream.opened()
        with pytest.raises(StreamReset):
            await link.open_stream("echo").read()
        other = (await dial(modest, server)).open_stream("echo")
        other.write(b"x")
        assert await other.read() == b"x"
        waiting[0].write(b"y")
        assert await waiting[0].read() == b"y"
        again = link.open_stream("echo")
        again.write(b"z")
        assert await again.read() == b"z"
        for one in (greedy, modest, server):
            one.close()

    run(main())


def test_a_handler_that_fails_resets_its_stream_only(caplog):
    async def main():
        server, client = await listening(), network()

        async def fail(stream):
            raise ZeroDivisionError("a bug")

        async def refuse(stream):
            raise HandshakeError("not you")

        server.handle("fail", fail)
        server.handle("refuse", refuse)
        link = await dial(client, server)
        for protocol in ("fail", "refuse"):
            with pytest.raises(StreamReset):
                await link.open_stream(protocol).read()
        assert not link.closed
        client.close()
        server.close()

    run(main())
    assert "a bug" in caplog.text


def test_addresses_are_what_is_announced_or_bound_and_circuits():
    async def main():
        assert network().addresses == []
        server = await listening()
        [bound] = server.addresses
        assert bound.host_port[1] != 0
        told = []
        server.on_changed(lambda: told.append(1))
        circuit = Multiaddr.parse("/p2p-circuit")
        server.add_circuit(circuit)
        assert server.addresses == [bound, circuit]
        server.remove_circuit(circuit)
        server.remove_circuit(circuit)
        assert server.addresses == [bound]
        assert len(told) == 2
        server.close()
        announced = network(
            "/dns4/relay.example/tcp/443/wss/p2p/12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7"
        )
        await announced.listen(LISTEN)
        assert [str(address) for address in announced.addresses] == ["/dns4/relay.example/tcp/443/wss"]
        announced.close()

    run(main())


def test_a_wildcard_is_told_as_addresses_that_can_be_dialled():
    async def main():
        server = network()
        await server.listen(Multiaddr.parse("/ip4/0.0.0.0/tcp/0"))
        hosts = [address.host_port[0] for address in server.addresses]
        assert "127.0.0.1" in hosts
        assert "0.0.0.0" not in hosts
        server.close()

    run(main())


def test_every_limit_of_connections_by_address_is_hit_and_counted():
    async def main():
        one = network()
        one.admission.change(Limits().changed("connections", "2,3,4"))
        there = [Multiaddr.parse(f"/ip4/192.0.2.{n}/tcp/1") for n in (1, 1, 1, 1, 2, 3)]
        links = [one.accept(Nowhere(), address) for address in there]
        assert [link is not None for link in links] == [True, True, True, False, True, False]
        assert one.admission.refused == {
            "too many connections of one address": 1,
            "too many connections of one subnet": 1,
        }
        links[0].close("enough")
        assert one.accept(Nowhere(), there[0]) is not None, "its place is free again"
        through = Multiaddr.parse("/ip4/192.0.2.1/tcp/1") / "/p2p-circuit"
        assert one.accept(Nowhere(), through) is not None, "the relay's address is not its peers'"
        one.close()
        one.admission.forget(time.monotonic() + 120)
        assert len(one.admission) == 0, "no address is remembered"

    run(main())


def test_who_knocks_too_often_is_refused():
    async def main():
        one = network()
        one.admission.change(Limits().changed("arrivals", "2,3,9"))
        there = Multiaddr.parse("/ip6/2001:db8::1/tcp/1")
        for _ in range(3):
            one.accept(Nowhere(), there).close("and again")
        assert one.accept(Nowhere(), there) is None
        assert one.admission.refused == {"too many arrivals of one address a minute": 1}
        one.close()

    run(main())


def test_streams_of_one_address_have_a_cap():
    async def main():
        server, client = await listening(), network()
        server.admission.change(Limits().changed("streams", "1,1,1"))

        async def echo(stream):
            stream.write(await stream.read())
            stream.close()

        server.handle("echo", echo)
        link = await dial(client, server)
        first = link.open_stream("echo")
        await first.opened()
        with pytest.raises(StreamReset):
            await link.open_stream("echo").read()
        assert server.admission.refused == {"too many streams of one peer": 1}
        first.write(b"x")
        assert bytes(await first.read()) == b"x"
        client.close()
        server.close()

    run(main())


@pytest.mark.parametrize("who", ["peer", "192.0.2.1"])
def test_who_is_banned_is_refused_and_closed(who):
    async def main():
        server, client = await listening(), network()
        link = await dial(client, server)
        strange = server.accept(Nowhere(), Multiaddr.parse("/ip4/192.0.2.1/tcp/1"))
        server.admission.rules.ban(str(client.peer_id) if who == "peer" else who, "rude", None, time.time())
        assert server.enforce() == 1
        assert strange.closed == (who != "peer")
        if who == "peer":
            while not link.closed:
                await asyncio.sleep(0)
            with pytest.raises((StreamReset, HandshakeError)):
                await read_over_a_new_connection(client, server)
        else:
            assert server.accept(Nowhere(), Multiaddr.parse("/ip4/192.0.2.1/tcp/2")) is None
        assert server.admission.refused["banned"] == 1
        client.close()
        server.close()

    run(main())

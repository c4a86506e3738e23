"""kad answered and asked over real connections."""

import asyncio
import os

import pytest

from kwaainet.errors import StreamReset
from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p import kad
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.native import routing as module
from kwaainet.native.host import NativeHost
from kwaainet.native.relay import Relay
from kwaainet.types import PeerId

ANY = "/ip4/127.0.0.1/tcp/0"
STRANGER = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(range(32)))


async def host(*listen):
    made = await NativeHost.create(PrivateKey(os.urandom(32)), listen)
    await made.listen()
    return made


async def connect(one, other):
    """Connected, and both know what the other serves."""
    await one.connect(other.addresses[0])
    for here, there in ((one, other), (other, one)):
        while not here.network.peerstore.description(there.peer_id).protocols:
            await asyncio.sleep(0)


async def ask(client, server, key):
    stream = await client.open_raw(server.peer_id, kad.PROTOCOL, timeout=60)
    stream.write_message(kad._Message(kad.FIND_NODE, key).encode())
    records = kad.read_response(await stream.read_message(kad.MAX_MESSAGE))
    stream.close()
    return records


async def close(*hosts):
    for one in hosts:
        await one.close()


def run(test):
    return asyncio.run(asyncio.wait_for(test, 60))


def test_a_server_finds_itself_or_go_libp2p_would_not_keep_it():
    async def main():
        server, client = await host(ANY), await host()
        await connect(client, server)
        [first] = await ask(client, server, server.peer_id.data)
        assert first == kad.PeerRecord(server.peer_id, tuple(server.network.addresses))
        await close(client, server)

    run(main())


def test_kad_servers_are_told_and_clients_only_when_asked_for():
    async def main():
        server, other, client = await host(ANY), await host(ANY), await host()
        await connect(other, server)
        await connect(client, server)
        assert [record.peer for record in await ask(client, server, STRANGER.data)] == [other.peer_id]
        assert await ask(other, server, client.peer_id.data) == [], "a client that listens nowhere"
        assert [record.peer for record in await ask(client, server, other.peer_id.data)] == [other.peer_id]
        assert [r.peer for r in await ask(client, server, b"no peer id")] == [other.peer_id]
        await close(client, other, server)

    run(main())


def test_who_holds_a_slot_is_told_with_the_relays_addresses():
    async def main():
        hub = await NativeHost.create(PrivateKey(os.urandom(32)), [ANY, ANY + "/ws"])
        Relay(hub)
        await hub.listen()
        tab, client = await host(hub.addresses[1] + "/p2p-circuit"), await host()
        await connect(client, hub)
        [record] = await ask(client, hub, tab.peer_id.data)
        assert record.peer == tab.peer_id
        assert [str(address) for address in record.addresses] == [a + "/p2p-circuit" for a in hub.addresses]
        await close(client, tab, hub)

    run(main())


def test_several_questions_on_one_stream_and_ping():
    async def main():
        server, client = await host(ANY), await host()
        await connect(client, server)
        stream = await client.open_raw(server.peer_id, kad.PROTOCOL, timeout=60)
        for _ in range(3):
            stream.write_message(kad.write_find_node(server.peer_id))
            assert kad.read_response(await stream.read_message(kad.MAX_MESSAGE))
        stream.write_message(bytes([8, kad.PING]))
        assert await stream.read_message(kad.MAX_MESSAGE) == bytes([8, kad.PING])
        stream.write_message(bytes([8, 0]))
        with pytest.raises(StreamReset):
            await stream.read_message(kad.MAX_MESSAGE)
        await close(client, server)

    run(main())


def test_a_peer_is_found_over_several_hops():
    """client - a - b - target: each knows only its neighbours."""

    async def main():
        hosts = [await host(ANY) for _ in range(3)]
        client = await host()
        a, b, target = hosts
        await connect(b, target)
        await connect(a, b)
        await connect(client, a)

        async def dial(record):
            await client.connect(str(record.addresses[0].with_peer(record.peer)))
            return client.network.link(record.peer)

        addresses, asked = await client.routing.find(target.peer_id, dial)
        assert list(addresses) == target.network.addresses
        assert asked == 2
        assert (await client.routing.find(STRANGER, dial))[0] == ()
        await close(client, *hosts)

    run(main())


def test_a_server_that_was_connected_a_moment_ago_is_asked_too():
    async def main():
        server, target, client = await host(ANY), await host(ANY), await host()
        await connect(target, server)
        await connect(client, server)
        client.network.peerstore.disconnected(server.peer_id)  # as if it had not identified itself yet
        addresses, asked = await client.routing.find(target.peer_id, None)
        assert (list(addresses), asked) == (target.network.addresses, 1)
        await close(client, target, server)

    run(main())


def test_addresses_through_ourselves_are_not_taken_from_peers():
    async def main():
        server = await host(ANY)
        own = Multiaddr.parse(f"/ip4/1.2.3.4/tcp/1/p2p/{server.peer_id}/p2p-circuit")
        other = Multiaddr.parse(f"/ip4/1.2.3.4/tcp/1/p2p/{STRANGER}/p2p-circuit")
        server.network.peerstore.add(STRANGER, [own, other])
        assert server.routing.addresses(STRANGER) == [other]
        await close(server)

    run(main())


def test_a_relay_that_settles_is_known_to_servers_it_never_heard_of_and_tells_of_them():
    async def main():
        relay, middle, far = await host(ANY), await host(ANY), await host(ANY)
        await connect(relay, middle)
        await connect(far, middle)
        assert await relay.settle() == 2
        assert far.peer_id in relay.network.peers
        assert relay.routing.near_bits == 0, "of so few servers all are asked anyhow"
        await far.close()
        while far.peer_id in relay.network.peers:
            await asyncio.sleep(0)
        told = relay.routing._closer(kad.Request(kad.FIND_NODE, STRANGER.data), middle.peer_id)
        assert far.peer_id in [record.peer for record in told], "it may be back; whoever asks finds out"
        assert await relay.settle() == 1
        await close(relay, middle)

    run(main())


def test_who_asks_nothing_more_is_let_go(monkeypatch):
    monkeypatch.setattr(module, "_IDLE", 0.05)

    async def main():
        server, client = await host(ANY), await host()
        await connect(client, server)
        stream = await client.open_raw(server.peer_id, kad.PROTOCOL, timeout=60)
        with pytest.raises(StreamReset):
            await stream.read()
        await close(client, server)

    run(main())
